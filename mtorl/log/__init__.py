"""The touchpoint log: its description, its contract, how it is split, and with what probability channels were chosen.

In reading order: `gain` (of an exposure), `sources` and `dataset` with `datasets/` (what a data set is: one YAML file),
`touchpoints` (types, writing, fingerprint), `columns` (reading columns from JSON and Arrow), `times`, `splits`
(training, validation or test, by user), `propensity`, `records` (fields of the decision log, which becomes the next
touchpoint log), and `forgotten` (whose records must not be written any more).
"""
