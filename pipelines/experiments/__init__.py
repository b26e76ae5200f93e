"""Moves experiments through their stages, on a laptop (experiment files) and on a cluster (Kubernetes objects).

People write the definition of an experiment. The *active* experiment, which the routers read, is computed from the
definition and the history of events by the stage machine of `mtorl.experiment`.

In reading order:

- `controller.py` applies moves, and `moves.py` applies the moves and kill switches that people request;
- on a laptop, `folder.py` stores an experiment, `evidence.py` reads the log, and `runner.py` runs the ramp;
- on a cluster, `cluster_api.py` and `resource.py` store it, `crd.py` defines the object, and `operator/` runs the ramp;
- `handover.py` moves a promoted model to the incumbent's server, on a laptop with `local_servers.py`;
- `versions_in_use.py` finds the model versions that are in use.
"""
