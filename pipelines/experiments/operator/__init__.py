"""The operator: it takes `Experiment` objects of a namespace through their stages.

In reading order: `operator.py`, `status.py` (conditions, figures and documents), `routers.py` (polls by routers),
`log_reader.py` (decision log), `lease.py` (leader election), `start.py` (the process).
"""
