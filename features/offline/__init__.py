"""A run's feature repository: creates it, joins features to training rows, and keeps the online store fresh.

Reading order: `store.py`, `asof_store.py` (Feast's point-in-time join, strictly past), `backfill.py`, `exposures.py`.
"""
