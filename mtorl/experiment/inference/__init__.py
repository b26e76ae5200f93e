"""Turns sums per user into a verdict, with error rates that are valid for any number of looks at the results.

In reading order: `sums` (the users' sums, for one metric or for all metrics at once), `heavy_users` (weights of users
who decide far more often than others), `statistics` (lift over all stages, always-valid intervals), `adjustment`
(covariates), `sample_ratio` (tests that the arms fill as configured), `verdict` (guardrails, and one token),
`false_discoveries` (secondary metrics) and `plan` (the number of users that an experiment needs).
"""
