"""Evaluates a model and its policy with confidence intervals, on logs of users that the model was not trained on.

In reading order: `resamples` (intervals by resampling users), `head_metrics` (prediction quality of the heads),
`logged_rows` (a log as off-policy estimates read it), `importance_weights`, `policy_value` (value of one policy),
`expected_outcomes` (forecasts and their errors), `value_difference` (two policies at one budget), `gate`, `shadow`
(challengers in an incumbent's shadow), `logged_incumbent` (an incumbent without an artifact), `offline` (the pipeline's
evaluation), `exploration_plan`, `holdout` (a finished artifact on new users), `response` (calibrated gains), `replay`
(journeys under another price) and `budget_plan` (the expected gain of a budget).
"""
