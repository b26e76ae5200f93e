"""The operator: it takes `Experiment` objects of a namespace through their stages.

In reading order: `operator.py` (what it does when), `status.py` (what it writes into an object's status),
`routers.py` (what routers ask it), `look.py` (what the decision log says), `views.py` (what its page says),
`cluster_api.py` (its requests), `lease.py` (which one of several leads), `start.py` (all of it as a
process, on kopf).
"""
