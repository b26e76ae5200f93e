"""The decision log as a database (`sqlite_log.py`), for `decision_log.py` to compare today's segment files with."""
