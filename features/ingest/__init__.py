"""Ingestion: turns a raw log in any known layout into the validated, canonical touchpoint log.

Functions raise a `LogError` if a log can't be used, and a `SpecError` for an invalid data set description. Reading
order:

- `adapters/`: read a file and rename its columns to those of the log
- `contract.py`: rules that each touchpoint must satisfy
- `conversions.py`: adds outcomes from a second file
- `findings.py`: finds columns from which no policy can learn
- `ingest.py`: validates a log, sets faulty rows aside and writes the others
- `log_folder.py`: the first step of a run, from a raw log or a built folder
- `object_store.py`: copies a log from an object store
- `profile.py`, `draft.py`: draft the description of an unknown file
"""
