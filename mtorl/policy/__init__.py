"""Turns predictions into a channel and a decision to spend, under a budget.

In reading order: `decision` (the decision rule), `exploration`, `price` (the price at which spend fits a budget),
`schedule` and `periods` (when a budget is to be spent), `pacing` (a price that follows spend).
"""
