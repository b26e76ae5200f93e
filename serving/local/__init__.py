"""Runs the whole request path on one host, as child processes that stop when the process that started them stops.

In reading order: `child_process.py`, `ports.py` (free ports), `model_server.py` with its two runtimes `torchserve.py`
and `predictor.py`, `stack.py` (one of the runtimes, and the router).
"""
