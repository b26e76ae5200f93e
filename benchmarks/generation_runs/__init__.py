"""What `benchmarks/generations.py` is made of: `ways.py`, `night.py` (one night), `market.py` (nights in a row)."""
