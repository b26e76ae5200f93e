"""Turns a raw log into features, for training and for decisions.

Reading order: `engine.py`, `ingest/`, `sequences/`, `feature_repo/`, `offline/`, `online/`, `describe/`,
`forget/`, `data_folder.py`. The README has a line for each file.
"""

import mtorl.runtime.no_typeguard  # noqa: F401  # before anything here imports Feast
