"""The comparison of `mtorl benchmark paper`: MTORL, its ablations and other methods on the same rows.

In reading order: `task` (the rows of a protocol), `methods` (the methods to compare), `score` (figures of a task),
`budget_curve` (gain by share of the budget), `authors_protocol`, `independence` (tests that the logged channels were
drawn at random), `jobs` (the work, split into jobs), `report` (docs/results.md).
"""
