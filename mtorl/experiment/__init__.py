"""An online experiment: its file, who gets which arm, and what the figures say.

In reading order: `experiment` (the file, its stages, budgets and kill switch), `arm` (a policy and where it answers),
`layers` (several at once), `assignment` (a salted hash sends a user to an arm), `metrics` (what may be measured),
`heavy_users` (weights of users who decide far more often than others), `statistics` (lift over all stages,
always-valid intervals), `sample_ratio` (are the arms filled as configured?) and `verdict` (guardrails, one token).
"""
