"""Simulates a market whose users, channels and logging policy are known, to compare estimates with true values.

Modules in reading order:

    market        how users respond to ads
    simulator     a touchpoint log of the market, and the same users online after the log
    informed      the best possible forecast for these users
    raw_log       writes the log to a file
"""
