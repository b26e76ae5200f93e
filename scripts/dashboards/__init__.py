"""Defines the Grafana dashboards as code; `python scripts/write_dashboards.py` writes their JSON.

Reading order: limits.py (thresholds of the alerts), panels.py (one panel), board.py (a whole dashboard), then the
dashboards: serving.py, decisions.py, experiment.py, budget.py, drift.py, pipelines.py.
"""
