"""Creates a run's Feast repository, adds its features to training rows, and writes its newest features online.

Reading order: `store.py`, `asof_store.py` (finds the features of each training row), `backfill.py` (writes to the
online store), `exposures.py` (reads the lake).
"""
