"""Controllers of experiments: they put the stage machine of `mtorl.experiment` to work.

In reading order: `store.py` (what an experiment is kept in), `controller.py` (what people and the ramp do to it); on a
laptop `folder.py` (a file, a history, and what is in force), `state_log.py` (the decision log of a router that runs)
and `look.py` (all that is known, for the ramp and for people); on a cluster `resource.py` (an object, its status, a
ConfigMap), `crd.py` (its definition), and `operator/`.
"""
