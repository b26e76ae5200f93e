"""The measurements of `features.py`, one in each module. The measured code runs in subprocesses.

In reading order: `log.py` (sizes of the measurements, and the synthetic log), the measurements `builder.py`,
`retrieval.py` and `online.py`, and `table.py` (the tables).
"""
