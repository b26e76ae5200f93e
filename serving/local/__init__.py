"""Runs the whole request path on one host, as child processes that stop together with their parent process.

In reading order: `child_process.py`, `ports.py` (free ports), `model_server.py` with its two runtimes `torchserve.py`
and `predictor.py`, `stack.py` (one of the runtimes, and the router).
"""
