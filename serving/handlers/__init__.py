"""The request handler that runs inside TorchServe.

In reading order: `policy_handler.py` (the decisions), `items.py` (one item of a request), `protocol.py` (bodies of v1
and v2). Published archives import `PolicyHandler` from here, and later releases must still serve these archives. So do
not move or rename the class.
"""
