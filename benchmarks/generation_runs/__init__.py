"""Parts of `benchmarks/generations.py`: `night.py`, `market.py` (nights in a row), `drift.py` (many small losses)."""
