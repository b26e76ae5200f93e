"""Adapters: from a file's own columns to those of the touchpoint log, one module for each file layout.

Read `files.py` (CSV, JSON and Parquet as tables), `values.py` (text, numbers and times) and `base.py` (what an adapter
is) first, then `samples.py`, `criteo.py` or `kuairand.py`. To add a layout, write a class like theirs, add it to
`ADAPTERS` of `features/ingest/ingest.py`, and name it in the YAML of a data set.
"""
