"""Turns a raw log into the features that training and ad decisions read.

Reading order: `engine.py`, `ingest/`, `collect/`, `sequences/`, `feature_repo/`, `offline/`, `online/`, `describe/`,
`forget/`, `data_folder.py`. The README describes the purpose of each file in one line.
"""

# Import this before Feast, because it switches off type checks that make the import of Feast slow.
import mtorl.runtime.no_typeguard  # noqa: F401
