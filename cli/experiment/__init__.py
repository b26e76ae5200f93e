"""The commands `mtorl experiment ...`, which check an experiment file, move its stages and show its results.

In reading order: `app.py` (the group of commands), `shared.py` (shared options), `files.py` (`init`, `check`), `log.py`
(`plan`, `verdict`), `move.py` (`move`), `run.py` (`run`, `status`, `operator`) and `table.py` (output).
"""
