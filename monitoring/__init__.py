"""What happens after traffic: the verdict of an experiment, the monitor's alarms, and the report of a run.

In reading order: `period.py` (what pipeline steps call), `decision_log.py`, `experiment_users.py` and `verdict.py`,
`watch/` (the monitor), `rollout.py`, `report.py` with its parts.
"""
