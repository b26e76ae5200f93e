"""The parts of benchmarks/scale.py.

Start with `made_lake.py`, which generates a lake of four weeks, and `batch.py`, which measures the jobs on its last
day.
"""
