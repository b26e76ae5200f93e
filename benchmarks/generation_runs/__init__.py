"""The parts of `benchmarks/generations.py`.

In reading order: `night.py` (one night of traffic), `market.py` (several nights in one market), `drift.py` (many small
losses in a row).
"""
