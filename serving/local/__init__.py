"""The whole request path on one machine, as child processes that end with the process that started them.

In reading order: `child_process.py`, `ports.py` (free ports), `torchserve.py` and `predictor.py` (two
runtimes of the models), `stack.py` (one of them and the router).
"""
