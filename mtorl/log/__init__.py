"""Defines the touchpoint log and the decision log: descriptions, types, storage, splits and propensities.

Reading order: `gain` (the gain of an exposure), `sources` and `dataset` with `datasets/` (descriptions in YAML),
`touchpoints` (types, writer, fingerprint), `columns` (readers for JSON and Arrow), `times`, `splits` (training,
validation and test users), `propensity`, `records` (fields of the decision log), `decision_ids`, `lake` and `derived`
(storage), `opportunities`, `trainings`, and `forgotten` (users whose records must no longer be written).
"""
