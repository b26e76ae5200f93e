"""Turns a log into model inputs: only what a decision may see.

In reading order: `history` (which earlier touchpoints count), `window` (their columns, offline and online), `packed` (a
history as one value of the online store), `on_demand` (windows cut when they are read), `branches` (windows of what may
happen next), `encoder` (columns to numbers, and labels), `table` (the windows folder on disk) and `loader` (batches for
training).
"""
