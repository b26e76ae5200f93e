"""The parts of `benchmarks/regret.py`.

In reading order: `market.py` (measures all policies in one market), `policies.py` (policies that always take the best
action according to a forecast), `informed_ahead.py` (a policy that knows the market and looks ahead), `table.py` (the
tables).
"""
