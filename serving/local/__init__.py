"""The whole request path on one machine, as child processes that end with the process that started them.

In reading order: `child_process.py`, `ports.py` (free ports), `model_server.py` with its two runtimes `torchserve.py`
and `predictor.py`, `stack.py` (one of them and the router).
"""
