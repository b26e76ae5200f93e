"""The network and its training.

In reading order: `model`, `objective` (its loss), `training` (the loop) with `checkpoint` and `parallel`, `ensemble`
(several networks as one), `calibration`, and `predictor` (what every model predicts).
"""
