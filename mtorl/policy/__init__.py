"""Turns predictions into a channel and a decision whether to expose it, under a budget.

In reading order: `decision` (the decision rule), `exploration`, `price` (the price at which spend fits a budget),
`schedule` and `periods` (the time over which a budget is spent), `pacing` (a price that follows spend).
"""
