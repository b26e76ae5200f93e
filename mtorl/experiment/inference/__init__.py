"""Turns users' sums into a verdict, with error rates that hold however often people look.

In reading order: `sums` (what users add up to, of one metric, and of all metrics part by part),
`heavy_users` (weights of users who decide far more often than others), `statistics` (lift over all stages, always-valid
intervals), `adjustment` (covariates), `sample_ratio` (are the arms filled as configured?), `verdict` (guardrails, one
token), `false_discoveries` (secondary metrics) and `plan` (how many users it takes).
"""
