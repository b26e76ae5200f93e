"""`mtorl experiment`: a file, its way through the stages, and what is known of it.

In reading order: `app.py` (the group), `shared.py` (options), `files.py` (`init`, `check`), `log.py`
(`plan`, `verdict`), `move.py`, `run.py` (`run`, `status`, `operator`); `table.py` prints.
"""
