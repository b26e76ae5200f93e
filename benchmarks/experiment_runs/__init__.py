"""Simulates the experiments that `experiments.py` measures.

In reading order: `markets.py` (how users behave), `judge.py` (computes verdicts), `arrivals.py`
(users who come once), `returning.py` (users who come several times), `guarded.py` (experiments with guardrails),
`late.py` (outcomes that arrive late), `paced.py` (identical arms with a paced budget), `table.py` (the tables).
"""
