"""The measures of `features.py`, one module each; what a module measures runs in processes of its own.

In reading order: `log.py` (sizes, the synthetic log), then the measures `builder.py`, `retrieval.py` and `online.py`,
and their tables, `table.py`.
"""
