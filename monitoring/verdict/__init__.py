"""Computes the verdict on an experiment from its decision log.

In reading order: `period.py` (entry of the pipeline step and the command line), `hourly_sums.py` (sums per user and
hour), `stored_sums.py` (stores them in the lake), `counted_decisions.py` (selects decisions that count),
`experiment_users.py` (sums over users), `covariates.py`, `comparison.py` (compares a challenger with the incumbent),
`verdict.py`, `segments.py`. `stage_evidence.py` serves the stage machine, and `incumbent_users.py` experiment plans.
"""
