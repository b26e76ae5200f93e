"""Judges traffic: the verdict of an experiment, the monitor's alarms, and the report of a run.

In reading order: `decision_log.py`, `verdict/`, `watch/` (the monitor), `experiments/` (page and gauges of
experiments), `gauge_table.py`, `models_in_log.py`, `pipeline_runs.py`, `report.py` with its parts.
"""
