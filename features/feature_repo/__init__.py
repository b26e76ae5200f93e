"""The Feast feature repository: definitions and sources of features; `feast apply` works in this folder.

Reading order: `sources.py` (Parquet files from the touchpoints), `views.py` (Feast's definitions),
`definitions.py` (for `feast apply`).
"""
