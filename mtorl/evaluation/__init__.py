"""Evaluates a model and its policy with confidence intervals, on logs of users that the model was not trained on.

In reading order: `resamples` (intervals by resampling users), `head_metrics` (prediction quality of the heads),
`logged_rows` (the input of off-policy estimates), `importance_weights`, `policy_value` (value of one policy),
`expected_outcomes` (forecasts and their errors), `value_difference` (two policies under the same budget), `gate`
(promotion of a challenger), `shadow` (challengers that run in the shadow of an incumbent), `logged_incumbent` (an
incumbent without an artifact), `offline` (the pipeline's evaluation), `exploration_plan`, `holdout` (a finished
artifact on new users), `response` (calibrated gains), `replay` (journeys under another price) and `budget_plan`.
"""
