"""The same artifact without TorchServe.

A plain KServe model (`predictor.py`) with one forward pass for many callers (`micro_batcher.py`), its server of HTTP
and gRPC (`server.py`), and its process (`__main__.py`).
"""
