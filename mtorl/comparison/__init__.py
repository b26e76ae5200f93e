"""Compares MTORL, its ablations and other methods on the same data, for `mtorl benchmark paper`.

In reading order: `task` (training and test rows of a protocol), `methods` (what is compared), `score` (figures of a
method on a task), `budget_curve` (gain by share of the budget), `authors_protocol` (the paper's split), `independence`
(tests that the logged channels were drawn at random), `jobs` (the work, split into jobs), `report` (docs/results.md).
"""
