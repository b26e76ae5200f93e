"""Controllers of experiments: the stage machine of `mtorl.experiment`, applied to files and to Kubernetes objects.

In reading order: `controller.py` (the store of an experiment, and each step that people and the ramp take); on a laptop
`folder.py` (file, history, file in force), `evidence.py` (the router's log and ledger), `runner.py` (stage by stage)
and `local_servers.py` (the models of `mtorl serve`); on a cluster `cluster_api.py` (objects, and the ConfigMap of what
is in force), `resource.py` (an object and its history), `crd.py` and `operator/`; on both `moves.py` (moves and the
kill switch of people), `handover.py` (a promoted model becomes the incumbent's) and `versions_in_use.py` (of the
registry).
"""
