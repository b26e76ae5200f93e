"""The touchpoint log: its description, contract, splits and propensities, and the records of decisions.

In reading order: `gain` (of an exposure), `sources` and `dataset` with `datasets/` (a data set's description, YAML),
`touchpoints` (types, writing, fingerprint), `columns` (reading columns from JSON and Arrow), `times`, `splits`
(training, validation or test, by user), `propensity`, `records` (fields of the decision log, which becomes the next
touchpoint log), and `forgotten` (users whose records must no longer be written).
"""
