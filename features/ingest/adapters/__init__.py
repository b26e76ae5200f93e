"""Adapters: map a file's own columns to those of the touchpoint log, one module per file layout.

Read `files.py` (CSV, JSON and Parquet as tables), `values.py` (text, numbers and times) and `base.py` (the interface of
an adapter) first, then `samples.py`, `criteo.py` or `kuairand.py`. To add a layout, write a similar class, add it to
`ADAPTERS` in `features/ingest/ingest.py`, and name it in the description of a data set.
"""
