"""The handler that TorchServe runs.

In reading order: `policy_handler.py` (the decisions), `items.py` (one item of a request), `protocol.py` (bodies of v1
and v2). Published archives, which later releases must serve, import `PolicyHandler`: do not move or rename it.
"""
