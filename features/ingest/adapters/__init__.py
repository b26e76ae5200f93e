"""Adapters convert the columns of a log file to the columns of the touchpoint log. There is one module per file layout.

Read `files.py` (CSV, JSON and Parquet as tables), `values.py` (text, numbers and times) and `base.py` (the interface of
an adapter) first, then `samples.py`, `criteo.py` or `kuairand.py`. To add a layout, write a subclass of `Adapter`, add
it to `ADAPTERS` in `features/ingest/ingest.py`, and set its name as `adapter` in a data set description.
"""
