"""From predictions to a channel and a decision to spend, under a budget.

In reading order: `decision` (the decision rule), `price` (the price at which spend fits a budget), `allocation`
(budgets of several channels), `pacing` (a price that follows spend) with `pace` (how spend compares with the plan), and
`schedule` (what an experiment file says about it).
"""
