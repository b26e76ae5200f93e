"""The parts of `benchmarks/generations.py`: `night.py` (one night), `market.py` (nights in a row)."""
