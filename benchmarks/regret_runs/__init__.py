"""The parts of `benchmarks/regret.py`.

In reading order: `market.py` (trains a model and plays all policies in one market), `policies.py` (policies that follow
a forecast greedily), `informed_ahead.py` (a policy that knows the market and looks ahead), `table.py` (the tables).
"""
