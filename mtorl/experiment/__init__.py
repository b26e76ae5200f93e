"""An online experiment: its file, the assignment of users to arms, and the statistics of the verdict.

In reading order: `experiment` (the file, its stages, budgets and kill switch), `arm` (a policy and its endpoint),
`layers` (several experiments at once), `paced_account` (pacing of an arm's part of a budget), `assignment` (a salted
hash maps a user to an arm), `metrics` (the metrics that a file may name), `inference/` (from sums per user to a
verdict), `stage_machine` (the next stage of a ramp) and `history` (the events of an experiment).
"""
