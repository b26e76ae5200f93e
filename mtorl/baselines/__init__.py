"""Policies to compare with, one file each: all learn from the same windows and answer like MTORL.

    predictor = lightgbm.fit(table.windows("train", targets=True), table.windows("val", targets=True), encoder, seed=0)
    logits_BC, reward_BC, cost_BC = predictor.predict(table.windows("test"))

A window is one touchpoint with its past; what happened at it is the target of the window's last token.
"""
