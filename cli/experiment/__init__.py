"""`mtorl experiment`: checks an experiment's file, moves its stages and shows its results.

In reading order: `app.py` (the group), `shared.py` (options), `files.py` (`init`, `check`), `log.py`
(`plan`, `verdict`), `move.py`, `run.py` (`run`, `status`, `operator`); `table.py` prints.
"""
