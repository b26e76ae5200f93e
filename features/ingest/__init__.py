"""Ingestion: turns a raw log in any known layout into the validated, canonical touchpoint log.

Functions raise a `LogError` if a log can't be used, and a `SpecError` for an invalid description.

Reading order: `adapters/` (from a file's own columns to those of the log), `contract.py` (rules for touchpoints),
`conversions.py` (outcomes from a second file), `findings.py` (faults of whole columns), `ingest.py` (validate,
quarantine, write), `log_folder.py` (first step of a run, from a raw log or a built folder), `object_store.py` (copies
of remote logs), `profile.py`, `draft.py` (a first description).
"""
