"""Serves the model of an artifact on KServe's own server, without TorchServe.

`predictor.py` (the KServe model), `micro_batcher.py` (one forward pass for many callers), `__main__.py` (the command).
"""
