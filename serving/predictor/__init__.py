"""The same artifact without TorchServe.

A plain KServe model (`predictor.py`), whose requests share passes (`gathering.py`), and its process (`__main__.py`).
"""
