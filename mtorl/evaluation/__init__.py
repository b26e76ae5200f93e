"""Figures with intervals about a model and its policy, from logs of users that it was not trained on.

In reading order: `resamples` (intervals by users), `head_metrics` (how well the heads predict), `logged_rows` (a log as
off-policy estimates read it), `importance_weights` (how far an estimate can be trusted), `policy_value` (value of one
policy per decision), `journey_value` (and per journey), `budget_curve` (what a share of the money buys),
`expected_outcomes` (what forecasts say, and how far they may be off), `value_difference` (two policies at one budget),
`gate` (may the challenger go on?), `shadow` (what challengers would have done beside an incumbent), `logged_incumbent`
(an incumbent that can't be asked), `offline` (the pipeline's evaluation), `exploration_plan` (what exploring costs and
teaches) and `holdout` (a finished artifact on new users).
"""
