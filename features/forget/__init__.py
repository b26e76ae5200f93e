"""Removes users from all that a folder keeps of them.

In reading order: `lake.py` (the log of record), `tables.py` (rows of Parquet tables and of quarantined rows),
`raw_files.py` (the owner's raw files, which stay), `places.py` (the stores in a folder). `features/online/` removes
users from the online store and the feed's notes, `serving/decision_log/` from the spool; `mtorl.log.forgotten` keeps
them from coming back.
"""
