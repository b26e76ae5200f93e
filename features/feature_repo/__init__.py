"""The Feast feature repository: what features there are, and from which sources; `feast apply` works in this folder.

Reading order: `names.py`, `sources.py` (Parquet files from the touchpoints), `views.py` (Feast's definitions),
`definitions.py` (what `feast apply` finds).
"""
