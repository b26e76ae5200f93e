"""The Grafana dashboards, as code: `python scripts/write_dashboards.py` writes their JSON.

Read limits.py (from which number on somebody is told: the alert's), panels.py (what a panel is), board.py (a whole
dashboard), and then the dashboards, one file each: serving.py, decisions.py, experiment.py, budget.py, drift.py,
pipelines.py.
"""
