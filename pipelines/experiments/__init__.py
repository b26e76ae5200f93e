"""Applies the stage machine of `mtorl.experiment` to experiment files and to Kubernetes objects.

The *active* experiment is the version that routers read. It is computed from the definition, which people write, and
the history.

Reading order: `controller.py` (stores, and moves by people and by the ramp). On a laptop: `folder.py` (file,
history, active file), `evidence.py` (the router's log and ledger), `runner.py` (the ramp) and `local_servers.py` (the
models of `mtorl serve`). On a cluster: `cluster_api.py` (objects, and the ConfigMap of active experiments),
`resource.py` (an object and its history), `crd.py` and `operator/`. On both: `moves.py` (moves and kill switch),
`handover.py` (moves a promoted model to the incumbent's server) and `versions_in_use.py` (registry).
"""
