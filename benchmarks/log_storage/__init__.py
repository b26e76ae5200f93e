"""The decision log as a database, for `decision_log.py` to compare the segment files with.

In reading order: `sqlite_log.py` (a prototype on SQLite), `table.py` (the figures as a table).
"""
