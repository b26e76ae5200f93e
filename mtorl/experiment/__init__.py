"""An online experiment: its file, who gets which arm, and what the figures say.

In reading order: `experiment` (the file, its stages, budgets and kill switch), `arm` (a policy and where it answers),
`layers` (several at once), `paced_account` (the price of an arm's part of a budget), `assignment` (a salted hash sends
a user to an arm), `metrics` (what may be measured), `inference/` (from users' sums to a verdict), `stage_machine` and
`history` (through the stages).
"""
