"""Turns a log into model inputs that contain only what was known at the decision.

In reading order: `history` (which earlier touchpoints count), `window` (their columns, offline and online), `packed` (a
history as one value of the online store), `on_demand` (windows built when they are read), `branches` (possible next
tokens), `encoder` (columns to numbers, and labels), `table` (the windows folder on disk) and `loader` (batches for
training).
"""
