"""Turns sums per user into a verdict, with error rates that are valid for any number of looks at the results.

Modules in reading order:

    sums                 sums over users, for one metric or for all metrics at once
    heavy_users          lower weights for users with far more decisions than others
    statistics           the lift over all stages, and its always-valid intervals
    adjustment           uses covariates from before the experiment to make the lift more precise
    sample_ratio         tests whether users reach the arms in the configured shares
    verdict              checks of guardrails, and the verdict
    false_discoveries    tests of secondary metrics
    plan                 the number of users that an experiment needs
"""
