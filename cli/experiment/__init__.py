"""`mtorl experiment`: an experiment's file, stages and results.

In reading order: `app.py` (the group), `shared.py` (options), `files.py` (`init`, `check`), `log.py`
(`plan`, `verdict`), `move.py`, `run.py` (`run`, `status`, `operator`); `table.py` prints.
"""
