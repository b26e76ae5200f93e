"""The comparison of `mtorl benchmark paper`: MTORL, its ablations and other methods on the same rows.

In reading order: `task` (the rows under a protocol), `methods` (what is compared), `score` (figures of a task),
`budget_curve` (gain by share of the money), `authors_protocol`, `independence` (tests that the logged channels were
drawn at random), `jobs` (the work, divided), `report` (docs/results.md).
"""
