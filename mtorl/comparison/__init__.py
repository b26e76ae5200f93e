"""The comparison of `mtorl benchmark paper`: MTORL, its ablations and other methods on the same rows.

In reading order: `task` (the rows under a protocol), `methods` (what is compared), `score` (figures of a task),
`calibration_noise` and `authors_protocol` (two of these figures), `independence` (were the logged channels drawn at
random?), `jobs` (the work, divided), `report` and `tables` (docs/results.md).
"""
