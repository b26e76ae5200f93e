"""Controllers of experiments: the stage machine of `mtorl.experiment`, applied to files and to Kubernetes objects.

In reading order: `controller.py` (the store of an experiment, and each step that people and the ramp take), `moves.py`
(moves by people); on a laptop `folder.py` (file, history, file in force), `evidence.py` (the router's log and ledger),
`runner.py` (stage by stage) and `local_servers.py` (the models of `mtorl serve`); on a cluster `cluster_api.py`,
`config_map.py` (experiments in force), `resource.py` (an object and its history), `follow.py` (kill switch and moves in
a spec), `crd.py` and `operator/`; on both `handover.py` (a promoted model becomes the incumbent's) and
`registry_uses.py` (versions of the registry that are in use).
"""
