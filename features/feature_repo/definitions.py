"""What `feast apply` finds in this folder.

Two environment variables choose the data:

MTORL_DATASET        built-in data set name or path of a YAML   (default: simulator)
MTORL_FEATURE_DATA   folder of user_history.parquet, ...         (default: data/ beside this file)
"""

from __future__ import annotations

import os
from pathlib import Path

from features.feature_repo.views import build
from mtorl.log.dataset import DatasetSpec

_made = build(
    DatasetSpec.load(os.environ.get("MTORL_DATASET", "simulator")),
    Path(os.environ.get("MTORL_FEATURE_DATA", Path(__file__).parent / "data")).resolve(),
)
user, campaign, channel = _made.user, _made.campaign, _made.channel
user_history, user_history_push, user_static = _made.user_history, _made.user_history_push, _made.user_static
user_channel, campaign_stats, channel_stats = _made.user_channel, _made.campaign_stats, _made.channel_stats
globals().update({view.name: view for view in _made.own})
request_time, ad_decision_v1, ad_channels_v1 = _made.request_time, _made.ad_decision, _made.ad_channels
