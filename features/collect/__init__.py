"""Turns the lake into the next training log: decisions, their outcomes, and which of them a policy may learn from.

In reading order: `compact.py` (arrived files to closed hours), `rules.py` (which decisions teach something),
`stored_rows.py` (each is judged once), `training_log.py` (touchpoints and opportunities, and what they teach in words),
`pruning.py` (which exposures stay), `experiment_decisions.py` (of one arm, and of challengers in the shadow),
`removal.py` (forgotten users, old hours), `database.py`, `spark.py` (the queries on DuckDB and Spark).
"""
