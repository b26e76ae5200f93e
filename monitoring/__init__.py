"""What happens after traffic: the verdict of an experiment, drift, alerts to people, and the report of a run.

In reading order: `period.py` (what pipeline steps call), `decision_log.py`, `experiment_users.py` and `verdict.py`,
`drift.py` (its tests and thresholds are in `mtorl/drift`) with `evidently_report.py`, `webhook.py` with
`webhook_receiver.py`, `rollout.py`, `report.py` with its parts.
"""
