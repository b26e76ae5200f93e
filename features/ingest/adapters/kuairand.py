"""Reads the KuaiRand data set as published."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import ibis

from features.engine import Engine
from features.ingest.adapters import files
from features.ingest.adapters.base import CHANNEL, OUTCOME, SAME, Adapter, lay_out
from features.ingest.adapters.samples import of_videos
from features.ingest.adapters.values import id_text, number, time_of_micros
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError

_OUTCOMES = (
    *("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms"),
    *("profile_stay_time", "comment_stay_time", "is_profile_enter"),
)


class KuaiRand(Adapter):
    """Adapter for the KuaiRand log of short videos. The channel is the class of a video's length."""

    # Upper limits of video lengths in ms. In the authors' sample, many play times are near these values.
    CLASSES: ClassVar[Mapping[str, int]] = {"short": 50_000, "mid": 117_000}
    LONGEST = "long"
    source: ClassVar[Mapping[str, str]] = {
        "timestamp": "time_ms",
        "channel": "duration_ms",
        "click": "is_click",
        "conversion": "long_view",
        "revenue": "play_time_ms",
        "hour": "hourmin",
    }
    never_context: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(_OUTCOMES, OUTCOME),
        "duration_ms": CHANNEL,
        "video_id": "a result of the channel",
    }

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Return the columns that a log file must have. Static columns are in user_features_*.csv instead."""
        base = ("user_id", "video_id", "time_ms", "is_click", "long_view", "play_time_ms", "duration_ms")
        plain = (self.source.get(c.name, c.name) for c in (*spec.context, *spec.outcomes))
        return tuple(dict.fromkeys((*base, *plain)))

    def read(self, engine: Engine, path: Path, spec: DatasetSpec, scratch: Path) -> ibis.Table:
        """Read one log file, or all log files of a folder, and add the static columns from user_features_*.csv."""
        folder = path if path.is_dir() else path.parent
        logs = sorted(path.glob("log_*.csv*")) if path.is_dir() else [path]
        if not logs:
            raise LogError(f"{path}: no log_*.csv in this folder")
        for log in logs:
            files.check_columns(log, files.columns_of(log, files.parts(log)), self.required(spec), spec)
        raw = files.table(engine, logs, files.columns_of(path, logs), scratch)
        wanted = [c.name for c in spec.static]
        if not wanted:
            return raw
        users = sorted(folder.glob("user_features*.csv*"))
        if len(users) != 1:
            raise LogError(f"{folder}: expected one user_features_*.csv next to the logs, found {len(users)}")
        names = files.columns_of(users[0], files.parts(users[0]))
        files.check_columns(users[0], names, ("user_id", *wanted), spec)
        features = files.table(engine, users, names, scratch)
        user = features.group_by(**{"#user": id_text(features["user_id"])}).agg(
            **{name: features[name].argmin(features[files.ROW]) for name in wanted}
        )
        return raw.left_join(user, id_text(raw["user_id"]) == user["#user"]).drop("#user")

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Compute the channel from the length of the video, and set the cost to 1."""
        duration = number(raw["duration_ms"])
        classes = [(duration < edge, name) for name, edge in self.CLASSES.items()]
        length = ibis.cases(*classes, (duration.notnull(), self.LONGEST), else_=ibis.null("string"))
        columns = {
            "user_id": id_text(raw["user_id"]),
            "timestamp": time_of_micros(number(raw["time_ms"]) * 1e3),
            "channel": ibis.coalesce(length, raw["duration_ms"].cast("string")),
            **of_videos(raw),
            SAME: raw["video_id"].cast("string"),
        }
        if "hourmin" in raw.columns:  # 1600 means 16:00
            columns["hour"] = (number(raw["hourmin"]) / 100).floor()
        return lay_out(raw, spec, columns)
