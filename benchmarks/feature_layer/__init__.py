"""The measures of `features.py`: one module each, and what a module measures runs in processes of its own.

In reading order: `plan.py` (sizes), `log.py` (the synthetic log), `child.py` (how time and memory are taken), then the
measures `builder.py`, `spark.py`, `retrieval.py`, `online.py` and `loader.py`, and their tables, `table.py`.
"""
