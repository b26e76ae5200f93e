"""Turns a raw log into the features that training and decisions read.

Reading order: `engine.py`, `ingest/`, `collect/`, `sequences/`, `feature_repo/`, `offline/`, `online/`, `describe/`,
`forget/`, `data_folder.py`. The README describes each file in a line.
"""

import mtorl.runtime.no_typeguard  # noqa: F401  # before anything here imports Feast
