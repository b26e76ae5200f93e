"""The same artifact without TorchServe: a plain KServe model (`predictor.py`), and its process (`__main__.py`)."""
