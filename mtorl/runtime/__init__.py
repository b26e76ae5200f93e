"""Helpers for files, processes, requests and errors, which know nothing about advertising.

`files` (atomic replacement of files), `validation` (strict models and their error messages), `progress` (progress of a
step and of DuckDB's queries), `step` (error handling of a pipeline step), `snapshots` (folders that steps pass to each
other), `sqlite_times` (reads times from SQLite), `hardware` (description of the computer for measurements),
`locks` (file locks between processes), `http` (requests), `object_stores` (file systems of s3:// and other addresses),
`duckdb_files` (these file systems in DuckDB), `clock_jumps` (ages of records after the clock has jumped).
"""
