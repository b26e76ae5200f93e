"""Turns the lake into the next training log: selects the decisions that a policy can learn from, with their outcomes.

Reading order: `compact.py` (arrived files to closed hours), `rules.py` (which decisions can be learned from),
`stored_rows.py` (judges each decision once), `training_log.py` (touchpoints, opportunities and a summary), `pruning.py`
(which exposures to keep), `experiment_decisions.py` (decisions of one arm, and shadow decisions of challengers),
`removal.py` (forgotten users, old hours), `database.py`, `spark.py` (the queries on DuckDB and Spark).
"""
