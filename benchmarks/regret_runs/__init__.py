"""The parts of `benchmarks/regret.py`.

In reading order: `market.py` (a training and its policies in one market), `policies.py` (rules over forecasts),
`informed_ahead.py` (the informed forecast with the value of later opportunities), `table.py`.
"""
