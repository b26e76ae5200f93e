"""A simulated market whose users, channels and logging policy are known, to compare estimates with true values.

In reading order: `market` (how users respond to ads), `simulator` (a touchpoint log of the market, and the same users
online after it), `informed` (the best possible forecast for these users) and `raw_log` (the log as a file).
"""
