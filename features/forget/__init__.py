"""Removes users from all files in a folder, for example from a run or from the data volume of a cluster.

Reading order: `tables.py` (removes rows from Parquet tables and from quarantine files), `raw_files.py` (finds users in
the owner's raw files, which are not changed), `folder.py` (finds all files and calls the others).

Users are also removed from the lake (`features/collect/removal.py`), from the online store (`features/online/`) and
from records that a router has not uploaded yet (`serving/decision_log/`). `mtorl.log.forgotten` lists the removed
users, so that they are not added again.
"""
