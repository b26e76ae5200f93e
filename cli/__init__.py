"""The console command `mtorl`: reads options, calls the other packages, draws progress and tables. It has no logic.

Reading order: `main.py` (the command and its groups), `run.py`, `data.py`, `model.py`, `search.py`,
`pipeline.py`, `cluster.py`, `arm.py`, `ledger.py`, `versions.py`, `monitor.py`, `experiment/` (the commands),
`messages.py`, `commands.py` (shared options), `endings.py` (exit codes), `progress_bars.py`, `tables.py` (output).
"""
