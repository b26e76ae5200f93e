"""What `feast apply` finds in this folder.

Two environment variables choose the data:

MTORL_DATASET        built-in data set name or path of a YAML   (default: simulator)
MTORL_FEATURE_DATA   folder of user_history.parquet, ...         (default: data/ beside this file)
"""

from __future__ import annotations

import os
from pathlib import Path

from features.feature_repo.views import build
from mtorl.dataset import DatasetSpec

user, user_history, user_static, ad_decision_v1 = build(
    DatasetSpec.load(os.environ.get("MTORL_DATASET", "simulator")),
    Path(os.environ.get("MTORL_FEATURE_DATA", Path(__file__).parent / "data")),
)
