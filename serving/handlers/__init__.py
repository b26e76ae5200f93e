"""What TorchServe runs: both decisions, the channel alone, or the budget alone, over one base class.

In reading order: `policy_handler.py` (both decisions), `items.py` (one item of a request), `base.py` (one forward pass
for a batch), `protocol.py` (bodies of v1 and v2), `channel_handler.py`, `budget_handler.py`, `archived/` (what an
archive holds of them).
"""
