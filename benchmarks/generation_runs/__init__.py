"""Parts of `benchmarks/generations.py`: `night.py`, `market.py` (several nights), `drift.py` (many small losses)."""
