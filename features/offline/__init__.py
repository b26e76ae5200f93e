"""Creates a run's Feast repository, joins its features to training rows, and writes its newest features online.

Reading order: `store.py`, `asof_store.py` (the join), `backfill.py` (writes to the online store), `exposures.py` (reads
the lake).
"""
