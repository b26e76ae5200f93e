"""The Feast feature repository: definitions and sources of features.

Reading order: `sources.py` (Parquet files from the touchpoints), `views.py` (Feast's definitions).
"""
