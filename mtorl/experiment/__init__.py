"""An online experiment: its file, who gets which arm, and what the figures say.

In reading order: `experiment` (the file, its stages, budgets and kill switch), `assignment` (a salted hash sends a user
to an arm) and `statistics` (lift, always-valid intervals, guardrails, the verdict).
"""
