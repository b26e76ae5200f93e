"""The parts of `benchmarks/regret.py`.

In reading order: `market.py` (a training and its policies in one market), `policies.py` (rules over forecasts),
`network_ahead.py` and `informed_ahead.py` (a forecast with the value of later opportunities), `table.py`.
"""
