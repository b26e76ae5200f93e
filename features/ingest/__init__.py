"""Ingestion: from a raw log in any known layout to the validated, canonical touchpoint log.

Reading order: `adapters/` (from a file's own columns to those of the log), `contract.py` (what a touchpoint must be),
`conversions.py` (outcomes of a second file), `ingest.py` (validate, quarantine, write), `log_folder.py` (the first step
of a run), `content.py` (whether a raw log is still the same).
"""
