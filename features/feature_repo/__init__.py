"""The Feast repository of a run: definitions of the features, and the Parquet files from which they are computed.

Reading order: `sources.py` (computes the Parquet files from touchpoints), `views.py` (Feast's definitions).
"""
