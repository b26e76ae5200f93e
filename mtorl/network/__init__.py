"""The network and its training.

Reading order: `model`, `future_value` (an additional head), `objective` (the loss), `training` (the loop) with
`checkpoint` and `parallel`, `ensemble` (several networks as one), `calibration`, and `predictor` (the interface of all
models).
"""
