"""The operator: it takes `Experiment` objects of a namespace through their stages.

In reading order: `operator.py`, `status.py` (conditions and figures), `routers.py` (polls by routers), `log_reader.py`
(decision log), `views.py` (documents for the page), `lease.py` (leader election), `start.py` (the process).
"""
