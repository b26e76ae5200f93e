"""Policies to compare MTORL with, one per file. All learn from the same windows and predict the same heads as MTORL.

    predictor = lightgbm.fit(table.windows("train", targets=True), table.windows("val", targets=True), encoder, seed=0)
    logits_BC, reward_BC, cost_BC = predictor.predict(table.windows("test"))

Every `fit` takes windows of training and of validation users with their targets, one window per touchpoint. To add a
method, write a file with `fit` and `predict`, and add its name to `mtorl/comparison/methods.py`.

Counting: `channel_frequency` (the incumbent), `repeat_last`, `markov`. Regression: `logistic`, `lightgbm` (the
yardstick). Networks: `behaviour_cloning`, `cql`, `iql`, `bcq`, `decision_transformer`. Shared: `learning`, `inputs`.
"""
