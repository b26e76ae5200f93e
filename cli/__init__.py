"""The console command `mtorl`. It reads options, calls the other packages, and shows progress and tables.

Reading order: `main.py` (the command and its groups), then the commands in `run.py`, `data.py`, `model.py`,
`search.py`, `pipeline.py`, `cluster.py`, `arm.py`, `budget.py`, `ledger.py`, `versions.py`, `monitor.py` and
`experiment/`, and finally what they share: `messages.py`, `commands.py` (options), `endings.py` (exit codes),
`progress_bars.py` and `tables.py` (output).
"""
