"""The same artifact without TorchServe.

A plain KServe model (`predictor.py`), and its process (`__main__.py`).
"""
