"""Selects the collected decisions from which a policy can learn, and writes them to the next training log.

Routers upload the decisions to the lake, a folder or bucket of Parquet files. Reading order:

- `compact.py`: moves uploaded files into the folder of their hour
- `rules.py`: decides which decisions a policy can learn from
- `stored_rows.py`: applies these rules to each decision once, and stores the result
- `training_log.py`, `pruning.py`: write the training tables, and limit their size
- `experiment_decisions.py`: reads the decisions of one experiment
- `removal.py`: removes forgotten users and old hours from the lake
- `database.py`, `spark.py`: run the queries on DuckDB or Spark
"""
