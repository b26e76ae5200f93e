"""A run's feature repository: created, joined to training rows strictly in the past, and kept fresh online.

Reading order: `store.py`, then `asof_store.py` (Feast's point-in-time join), `backfill.py`.
"""
