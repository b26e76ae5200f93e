"""The operator, which runs the `Experiment` objects of a namespace.

In reading order: `operator.py`, `status.py` (conditions, figures and documents), `routers.py` (polls by routers),
`log_reader.py` (decision log), `lease.py` (leader election), `start.py` (the process).
"""
