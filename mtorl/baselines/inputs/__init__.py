"""Inputs of the baselines, instead of tokens.

In reading order: `summary` (a window as a few dozen features), `states` (the same as plain numbers), `transitions`
(from decision to decision).
"""
