"""The decision log becomes the next training log: what was decided, what came of it, and what may be learned from it.

In reading order: `log_files.py` (what of a decision log was not read yet), `store.py` (decisions and their outcomes by
the hour, brought up to date as the log grows), `hours.py` (a period, collected again), `rules.py` (which decisions
teach something, and with which probabilities), `training_log.py` (touchpoints and opportunities for a training),
`pruning.py` (which exposures stay if there are too many), `report.py` (what they teach, in words), `shadows.py` (what
challengers decided in the shadow, beside that), `served.py` (what one arm did, to plan its exploration), `database.py`
(where the queries run: DuckDB with limits), `spark.py` (or Spark), `sql.py` (what both take).
"""
