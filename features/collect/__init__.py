"""The lake becomes the next training log: decisions, their outcomes, and what a policy can learn from them.

In reading order: `compact.py` (arrived files to closed hours), `snapshot.py` (the records of one training), `rules.py`
(which decisions teach something, with which probabilities), `training_log.py` (touchpoints and opportunities),
`pruning.py` (which exposures stay if there are too many), `report.py` (what they teach, in words), `shadows.py`
(decisions of challengers in the shadow), `served.py` (decisions of one arm), `removal.py` (forgotten users, old hours),
`database.py`, `spark.py`, `hour_folders.py` (the queries on DuckDB and Spark).
"""
