"""Implements the methods that MTORL is compared with, one per file, with the same inputs and outputs as MTORL.

    predictor = lightgbm.fit(table.windows("train", targets=True), table.windows("val", targets=True), encoder, seed=0)
    logits_BC, reward_BC, cost_BC = predictor.predict(table.windows("test"))

Each `fit` gets the windows of training and of validation users with their targets, one window per touchpoint. To add a
method, write a file with `fit` and `predict`, and add its name to `mtorl/comparison/methods.py`.

    counting      `channel_frequency` (the incumbent), `repeat_last`, `markov`
    regression    `logistic`, `lightgbm` (the yardstick)
    networks      `behaviour_cloning`, `cql`, `iql`, `bcq`, `decision_transformer`
    shared code   `learning`, `inputs`
"""
