"""The same artifact without TorchServe.

`predictor.py` (a KServe model and its server), `micro_batcher.py` (one forward pass for many callers), `__main__.py`.
"""
