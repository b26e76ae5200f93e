"""A user is forgotten: whatever a folder keeps of them is found by what it is, and taken out.

In reading order: `tables.py` (rows of Parquet tables and of quarantined rows), `raw_files.py` (somebody's own files,
which stay), `places.py` (what there is in a folder, and what was taken out of it). The online store and the feed's
journal are the concern of `features/online/`, and the spool that of `serving/decision_log/`; who must not come back
stands in `mtorl.log.forgotten`.
"""
