"""The request handler that runs inside TorchServe.

In reading order: `policy_handler.py` (the decisions), `items.py` (one item of a request), `protocol.py` (the bodies of
requests and answers in KServe's protocols v1 and v2).

Published archives import `PolicyHandler` from this package, and later releases must still serve these archives. So do
not move or rename the class.
"""
