"""A market whose users, channels and logging policy are known, to check estimates against the true values.

In reading order: `market` (how users respond to ads), `simulator` (a touchpoint log of that market, and the same users
online after it), `informed` (the most that anybody can know of them) and `raw_log` (the log as a file).
"""
