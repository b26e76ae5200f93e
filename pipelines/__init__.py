"""KFP pipelines, how they run on a laptop and are compiled for a cluster, and other work of `mtorl` commands.

Reading order: `training.py`, `bootstrap.py`, `monitoring.py`, `profile.py` (laptop or cluster),
`steps.py` (progress and timing), `local.py` (a pipeline on this machine), `on_volume.py` (on a folder that outlives its
runs), `cluster/` (YAML, uploads, recurring runs), `experiments/` (controllers), `loop/` (`mtorl run`), then
`evaluation_on_log.py` (`mtorl evaluate`) and `paper.py` (`mtorl benchmark paper`).
"""
