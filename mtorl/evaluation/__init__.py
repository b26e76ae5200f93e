"""Figures with intervals about a model and its policy, from logs of users that it was not trained on.

In reading order: `resamples` (intervals by users), `head_metrics` (how well the heads predict), `logged_rows` (a log as
off-policy estimates read it), `importance_weights`, `policy_value` (value of one policy), `expected_outcomes`
(forecasts and their errors), `value_difference` (two policies at one budget), `gate`, `shadow` (challengers beside an
incumbent), `logged_incumbent` (one without an artifact), `offline` (the pipeline's evaluation), `exploration_plan`,
`holdout` (a finished artifact on new users); `response` (calibrated gains), `replay` (journeys under another price) and
`budget_plan` (what a budget would earn).
"""
