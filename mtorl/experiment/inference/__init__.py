"""Turns sums per user into a verdict, with error rates that are valid for any number of looks at the results.

In reading order: `sums` (the users' sums, for one metric or for all metrics at once), `heavy_users` (weights of users
with far more decisions than others), `statistics` (lift over all stages, always-valid intervals), `adjustment`
(covariates), `sample_ratio` (whether users reach the arms in the configured shares), `verdict` (guardrails, and the
verdict), `false_discoveries` (secondary metrics) and `plan` (the number of users that an experiment needs).
"""
