"""KFP pipelines, how they run on a laptop and are compiled for a cluster, and what `mtorl` commands do beside them.

Reading order: `training.py` and `monitoring.py` (the two pipelines), `profile.py` (laptop or cluster), `compile.py`
(YAML for a cluster), `steps.py` (progress and timing), `settings.py` (of a training), `bootstrap.py` (the first
installation), `local.py` and `runner_output.py` (a pipeline on this machine), `loop/` (the whole loop of `mtorl run`),
then `evaluation_on_log.py` (`mtorl evaluate`) and `paper.py` (`mtorl benchmark paper`).
"""
