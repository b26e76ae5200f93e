"""The Grafana dashboards, as code: `python scripts/write_dashboards.py` writes their JSON.

Read limits.py (thresholds of the alerts), panels.py (one panel), board.py (a whole dashboard), and then the
dashboards, one file each: serving.py, decisions.py, experiment.py, budget.py, drift.py,
pipelines.py.
"""
