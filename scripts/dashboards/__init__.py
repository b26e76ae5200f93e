"""Defines the Grafana dashboards as Python code. `python scripts/write_dashboards.py` converts them to JSON.

Reading order: limits.py (thresholds of the alerts), panels.py (one panel), board.py (a whole dashboard), and then the
dashboards: serving.py, decisions.py, experiment.py, budget.py, drift.py, pipelines.py.
"""
