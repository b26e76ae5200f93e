"""The parts of `benchmarks/serving.py` and `benchmarks/soak.py`.

In reading order: `load.py` (a load generator that runs in a subprocess), `servers.py` (starts the servers),
`profile.py` (a profiler for the router), `tables.py` (formats the figures).
"""
