"""Helpers that know nothing of the domain: each file stands alone.

`files` (atomic replacement), `validation` (strict models and their error messages), `progress` (reports of a step),
`duckdb_progress` (no bar of DuckDB's own), `hardware` (what a figure was measured on).
"""
