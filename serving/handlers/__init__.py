"""The handlers that TorchServe runs.

In reading order: `policy_handler.py` (the decisions), `items.py` (one item of a request), `base.py` (one forward pass
for a batch), `protocol.py` (bodies of v1 and v2). A published archive imports a class of `policy_handler`, and later
releases serve it: `serving.archive.HANDLERS` names the classes that must stay.
"""
