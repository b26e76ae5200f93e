"""Features: from a raw log to what training reads and what a decision is based on.

Reading order: `engine.py`, `ingest/`, `sequences/`, `feature_repo/`, `offline/`, `online/`, `describe/`,
`forget/`, `data_folder.py`. The README has a line for each file.
"""

import mtorl.runtime.no_typeguard  # noqa: F401  # before anything here imports Feast
