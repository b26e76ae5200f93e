"""The Feast feature repository: feature definitions and their sources.

Reading order: `sources.py` (Parquet files computed from touchpoints), `views.py` (Feast's definitions).
"""
