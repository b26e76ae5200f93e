"""Helpers that know nothing of advertising.

`files` (atomic replacement), `validation` (strict models and their error messages), `progress` (of a step, and of
DuckDB's queries), `step` (error handling of a pipeline step), `snapshots` (folders that steps pass to each other),
`sqlite_times` (SQLite with IPython), `hardware` (of a measurement), `locks` (between processes), `http` (requests),
`object_stores` (s3:// and others), `duckdb_files` (such a store in DuckDB), `clock_jumps` (ages if the clock jumps).
"""
