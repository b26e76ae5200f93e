"""The decision log becomes the next training log: decisions, their outcomes, and what a policy can learn from them.

In reading order: `log_files.py` (new files of a decision log), `store.py` (decisions and outcomes by the hour, and a
period to collect again), `rules.py` (which decisions teach something, with which probabilities), `training_log.py`
(touchpoints and opportunities), `pruning.py` (which exposures stay if there are too many), `report.py` (what they
teach, in words), `shadows.py` (decisions of challengers in the shadow), `served.py` (decisions of one arm),
`database.py`, `spark.py`, `sql.py` (the queries on DuckDB and Spark).
"""
