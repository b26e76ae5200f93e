"""Controllers of experiments: they put the stage machine of `mtorl.experiment` to work.

In reading order: `store.py` (what an experiment is kept in), `controller.py` (what people and the ramp do to it),
`moves.py` (what a person asks for); on a laptop `folder.py` (a file, a history, and what is in force), `state_log.py`
(the decision log of a router that runs), `look.py` (all that is known, for the ramp and for people) and `runner.py`
(from stage to stage), with `local_servers.py` (the models of `mtorl serve`); on a cluster `api.py` (what is asked of an
API server), `config_map.py` (what is in force), `resource.py` (an object and its history), `happened.py` (the history
in words), `follow.py` (what people ask for in it), `crd.py` (its definition), `operator/`; on both `handover.py` (a
promoted model becomes the incumbent's) and `registry_uses.py` (what uses a version of the registry).
"""
