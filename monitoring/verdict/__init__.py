"""The verdict of an experiment, from its decision log.

In reading order: `period.py` (what the pipeline step and the command line call), `counted_decisions.py` (which
decisions count), `judged_models.py`, `experiment_users.py` (sums of each user), `known_users.py` (covariates),
`comparison.py` (a challenger with the incumbent), `verdict.py`, `segments.py`, `long_term.py`; `stage_evidence.py` is
what the stage machine decides on, `incumbent_users.py` what a plan of an experiment needs.
"""
