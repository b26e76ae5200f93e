"""The parts of `benchmarks/regret.py`.

In reading order: `market.py` (a training and the policies in one market), `policies.py` (greedy rules on forecasts),
`informed_ahead.py` (the informed forecast with the value of later opportunities), `table.py`.
"""
