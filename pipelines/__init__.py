"""Defines the pipelines, runs them on a laptop or a cluster, and implements several `mtorl` commands.

In reading order:

- `training.py`, `bootstrap.py` and `monitoring.py` define the pipelines for Kubeflow Pipelines (KFP);
- `profile.py` has the settings of a laptop and of a cluster, and `steps.py` tracks progress;
- `local.py` runs a pipeline on a laptop, and `on_volume.py` runs it on a persistent folder;
- `cluster/` compiles and uploads pipelines, and sets up recurring runs;
- `experiments/` moves experiments through their stages;
- `loop/`, `evaluation_on_log.py` and `paper.py` implement `mtorl run`, `mtorl evaluate` and `mtorl benchmark paper`.
"""
