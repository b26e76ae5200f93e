"""Simulated experiments, for `experiments.py`.

In reading order: `markets.py` (what a user does), `arrivals.py` (users who come once), `returning.py` (users who come
back, over hours and over the stages of a ramp), `uneven.py` (users who decide far more often than others), `judge.py`
(what the functions of the verdict say), `table.py`.
"""
