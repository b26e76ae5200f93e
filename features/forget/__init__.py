"""Removes users from all that a folder keeps of them.

In reading order: `tables.py` (rows of Parquet tables and of quarantined rows), `raw_files.py` (the owner's raw files,
which stay), `folder.py` (the stores in a folder). `features/collect/removal.py` removes users from the lake,
`features/online/` from the online store and the feed's notes, `serving/decision_log/` from the spool;
`mtorl.log.forgotten` keeps them from coming back.
"""
