"""The verdict of an experiment, from its decision log.

In reading order: `period.py` (entry of the pipeline step and the command line), `hourly_sums.py` (sums of each user and
hour), `stored_sums.py` (keeps them in the lake), `counted_decisions.py` (which of them count), `experiment_users.py`
(sums over users), `covariates.py` (covariates), `comparison.py` (a challenger with the incumbent), `verdict.py`,
`segments.py`; `stage_evidence.py` is for the stage machine, `incumbent_users.py` for the plan of an
experiment.
"""
