"""The Kubernetes operator that runs the `Experiment` objects of a namespace.

In reading order:

- `operator.py` applies the moves of people and of the ramp to the objects;
- `status.py` builds the status of an object, and `routers.py` answers the polls of routers;
- `log_reader.py` reads the decision log in a subprocess;
- `lease.py` elects the leader of several operators, `access.py` protects the page, and `start.py` starts the process.
"""
