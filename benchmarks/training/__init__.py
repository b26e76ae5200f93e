"""What `train.py` compares with: the published network (`published.py`)."""
