"""Runs pipelines on a cluster: compiled pipelines, recurring runs, Katib's search.

Reading order: `compile.py` (YAML), `kfp_server.py` (connect, upload), `schedule.py` (recurring runs), `katib.py`.
"""
