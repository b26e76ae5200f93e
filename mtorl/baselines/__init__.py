"""Policies to compare with, one file each. All learn from the same windows and predict the same three heads as MTORL.

    predictor = lightgbm.fit(table.windows("train", targets=True), table.windows("val", targets=True), encoder, seed=0)
    logits_BC, reward_BC, cost_BC = predictor.predict(table.windows("test"))

Every `fit` takes windows of training and of validation users with their targets, one window for each touchpoint. To add
a method, write one file with `fit` and `predict` like these and name it in `mtorl/comparison/methods.py`.

Counting: `channel_frequency` (the incumbent), `repeat_last`, `markov`. Regression: `logistic`, `lightgbm` (the
yardstick). Networks: `behaviour_cloning`, `cql`, `iql`, `bcq`, `decision_transformer`; they share `learning`. Inputs of
all of them: `inputs`.
"""
