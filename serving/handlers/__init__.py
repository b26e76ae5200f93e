"""The handler that TorchServe runs.

In reading order: `policy_handler.py` (the decisions), `items.py` (one item of a request), `protocol.py` (bodies of v1
and v2). A published archive imports `PolicyHandler`, and later releases serve it: its name and place stay.
"""
