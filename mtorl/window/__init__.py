"""Turns a log into model inputs that contain only what was known at the time of each decision.

In reading order: `history` (which earlier touchpoints a decision may use), `window` (the columns of these touchpoints,
offline and online), `packed` (a user's history as one value of the online store), `on_demand` (windows that are built
only when they are read), `branches` (possible next tokens of a window), `encoder` (columns to numbers, and labels),
`table` (the windows folder on disk) and `loader` (batches for training).
"""
