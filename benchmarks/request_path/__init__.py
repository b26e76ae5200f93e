"""The parts of `benchmarks/serving.py` and `benchmarks/soak.py`.

In reading order: `load.py` (a load generator that runs in a subprocess), `servers.py` (the servers under load),
`tables.py` (the figures as tables).
"""
