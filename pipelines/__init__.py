"""Defines the KFP pipelines, runs them on a laptop, compiles them for a cluster, and implements `mtorl` commands.

Reading order: `training.py`, `bootstrap.py`, `monitoring.py`, `profile.py` (laptop or cluster),
`steps.py` (progress and timing), `local.py` (runs a pipeline locally), `on_volume.py` (runs a pipeline on a persistent
folder), `cluster/` (YAML, uploads, recurring runs), `experiments/` (controllers), `loop/` (`mtorl run`),
`evaluation_on_log.py` (`mtorl evaluate`) and `paper.py` (`mtorl benchmark paper`).
"""
