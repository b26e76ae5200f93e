"""The measures of `features.py`, one in each module. Measured code runs in subprocesses.

In reading order: `log.py` (sizes, the synthetic log), the measures `builder.py`, `retrieval.py` and `online.py`, and
`table.py`.
"""
