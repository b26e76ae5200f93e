"""Helpers that know nothing of the domain: nearly each file stands alone.

`files` (atomic replacement), `validation` (strict models and their error messages), `progress` (reports of a step, and
of DuckDB's queries), `step` (how a pipeline's step ends), `snapshots` (what steps pass to each other), `sqlite_times`
(times in SQLite beside IPython), `hardware` (what a figure was measured on), `locks` (between processes), `http`
(requests), `object_stores` (of an address), `duckdb_files` (those of a store), `clock_jumps` (ages by a clock).
"""
