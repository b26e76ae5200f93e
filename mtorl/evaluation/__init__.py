"""Evaluates a model and its policy on logs of users that the model was not trained on, with confidence intervals.

The files in reading order:

    resamples            confidence intervals by resampling users
    head_metrics         prediction quality of the action head and the reward head
    logged_rows          the input of off-policy estimates
    importance_weights   reliability of the importance weights
    policy_value         estimated gain of one policy
    expected_outcomes    forecasts of rare exposures, and bounds of the forecasts' errors
    value_difference     comparison of two policies under the same budget
    gate                 decision whether a challenger replaces the incumbent
    shadow               report on challengers that answer requests without serving users
    logged_incumbent     an incumbent that has no artifact
    offline              the evaluation step of the pipeline
    exploration_plan     cost and benefit of random exploration
    holdout              evaluation of a finished artifact on new users
    response             calibration of forecast gains
    replay               user journeys replayed under another price
    budget_plan          expected gain of a budget, and its split over campaigns and channels
"""
