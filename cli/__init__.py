"""The console command `mtorl`: reads options, calls a room below, draws progress and a table. It owns no logic.

Reading order: `main.py` (the command and its groups), `run.py`, `data.py`, `model.py`, `search.py`, `benchmark.py`,
`pipeline.py`, `cluster.py`, `arm.py`, `ledger.py`, `experiment/`, `versions/`, `monitor/` (the commands),
`commands.py` (help and shared options), `endings.py` (exit codes), `progress_bars.py`, `tables.py` (output).
"""
