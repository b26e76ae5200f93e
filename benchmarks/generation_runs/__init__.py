"""What `benchmarks/generations.py` is made of: `night.py` (serve and log a night), `market.py` (nights in a row)."""
