"""Names in the feature repository, for whoever asks it for features."""

HISTORY = "user_history"
STATIC = "user_static"
USER_CHANNEL = "user_channel"
CAMPAIGN_STATS = "campaign_stats"
CHANNEL_STATS = "channel_stats"
REQUEST_TIME = "request_time"
HISTORY_PUSH = "user_history_push"

AD_DECISION = "ad_decision_v1"
"""Features of one decision; a change of their meaning makes a new version."""
AD_CHANNELS = "ad_channels_v1"
"""State of every channel."""
