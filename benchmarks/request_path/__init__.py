"""The parts of `benchmarks/serving.py` and `benchmarks/soak.py`.

In reading order: `load.py` (a load generator in a process of its own), `servers.py` (what it calls),
`tables.py` (the figures as tables).
"""
