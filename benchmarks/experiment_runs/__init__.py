"""Simulated experiments, for `experiments.py`.

In reading order: `markets.py` (what a user does), `judge.py` (what the functions of the verdict say),
`arrivals.py` (users who come once, alike or unevenly busy), `returning.py` (users who come back, over hours and over
the stages of a ramp), `paced.py` (identical arms under a paced budget), `table.py`.
"""
