"""Removes users from everything that a folder stores about them.

Reading order: `tables.py` (rows of Parquet tables, and quarantined rows), `raw_files.py` (reports users in the owner's
raw files, which stay), `folder.py` (finds the stores in a folder). `features/collect/removal.py` removes users from the
lake, `features/online/` from the online store and the feed's notes, and `serving/decision_log/` from the spool.
`mtorl.log.forgotten` keeps removed users from being added again.
"""
