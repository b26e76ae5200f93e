"""What `train.py` and `train_gpu.py` compare with."""
