"""Runs the whole request path on one host, as child processes that stop with the process that started them.

In reading order: `child_process.py`, `ports.py` (free ports), `model_server.py` with its two runtimes `torchserve.py`
and `predictor.py`, `stack.py` (a runtime and the router).
"""
