"""The neural network, and the code that trains it.

Reading order: `model` (the network), `future_value` (an additional output head), `objective` (the loss), `training`
(the training loop) with `checkpoint` and `parallel` (threads and processes), `ensemble` (several networks used as one),
`calibration`, and `predictor` (the interface that all models share).
"""
