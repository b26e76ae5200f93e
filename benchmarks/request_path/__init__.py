"""The parts of `benchmarks/serving.py`: a load generator in a process of its own, and the servers that it calls."""
