"""Simulated experiments, for `experiments.py`.

In reading order: `markets.py` (the users' behaviour), `judge.py` (applies the functions of the verdict), `arrivals.py`
(users who come once, equally or unequally active), `returning.py` (users who return, over hours and over the stages of
a ramp), `guarded.py` (guardrails), `paced.py` (identical arms with a paced budget), `table.py`.
"""
