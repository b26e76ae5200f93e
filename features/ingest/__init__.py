"""Ingestion: from a raw log in any known layout to the validated, canonical touchpoint log.

Functions raise a `LogError` for a log that can't be used, and a `SpecError` for its description.

Reading order: `adapters/` (from a file's own columns to those of the log), `contract.py` (what a touchpoint must be),
`conversions.py` (outcomes of a second file), `ingest.py` (validate, quarantine, write), `log_folder.py` (the first step
of a run, from a raw log or a built folder); `object_store.py` (copies of an address); `profile.py`, `draft.py` (a first
description).
"""
