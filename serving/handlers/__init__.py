"""The handler that TorchServe runs.

In reading order: `policy_handler.py` (the decisions), `items.py` (one item of a request), `protocol.py` (bodies of v1
and v2). Published archives import `PolicyHandler`, and later releases serve these, so do not move or rename it.
"""
