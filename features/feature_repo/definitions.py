"""Definitions for `feast apply` in this folder.

Two environment variables choose the data:

MTORL_DATASET        built-in data set name or path of a YAML   (default: simulator)
MTORL_FEATURE_DATA   folder of user_channel.parquet, ...         (default: data/ beside this file)
"""

from __future__ import annotations

import os
from pathlib import Path

from features.feature_repo.views import build
from mtorl.log.dataset import DatasetSpec

_spec = DatasetSpec.load(os.environ.get("MTORL_DATASET", "simulator"))
_data = Path(os.environ.get("MTORL_FEATURE_DATA", Path(__file__).parent / "data")).resolve()
# Feast takes every object that a name of this module refers to.
globals().update({f"definition_{i}": made for i, made in enumerate(build(_spec, _data).objects)})
