"""The network and its training.

In reading order: `model`, `future_value` (a head on it), `objective` (its loss), `training` (the loop) with
`checkpoint` and `parallel`, `ensemble` (several networks as one), `calibration`, and `predictor` (what every model
predicts).
"""
