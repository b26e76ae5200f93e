"""Compiles pipelines for a cluster, uploads them, and sets up recurring runs and hyper-parameter searches.

In reading order: `compile.py` writes YAML, `kfp_server.py` uploads the YAML to Kubeflow Pipelines, `schedule.py` sets
up recurring runs, and `katib.py` writes a search for Katib.
"""
