"""The two processed samples that the MTORL authors published with their notebooks."""

from collections.abc import Mapping
from typing import ClassVar

import ibis

from features.ingest.adapters.base import CHANNEL, OUTCOME, SAME, Adapter, attributes, lay_out, one_hot, one_hot_text
from features.ingest.adapters.files import INDEX
from features.ingest.adapters.values import id_text, number, time_of_micros
from mtorl.log.dataset import DatasetSpec

START = 1_704_067_200_000_000  # 2024-01-01 UTC, us since 1970; arbitrary, as samples have no dates


class KuaiRandSequence(Adapter):
    """Short videos; the channel is the class of the video's length.

    The file's time is min-max normalized. It is scaled to an arbitrary 30 days. Rows of a user at the same time are
    distinguished by the row index. The log has no cost, so each exposure costs 1.
    """

    ACTIVITY = (
        *("2_14_day_new", "30day_retention", "UNKNOWN", "day_new", "full_active", "high_active", "low_active"),
        *("middle_active", "single_low_active"),
    )
    DAYS = 30
    source: ClassVar[Mapping[str, str]] = {
        "timestamp": "time_ms",
        "click": "is_click",
        "conversion": "long_view",
        "revenue": "play_time_ms",
        "channel": "short, mid, long",
        "activity": "2_14_day_new ... single_low_active",
    }
    never_context: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("is_click", "long_view", "play_time_ms"), OUTCOME),
        **dict.fromkeys(("short", "mid", "long"), CHANNEL),
    }

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Return the sample's columns; channels and activity are one-hot."""
        outcomes = ("is_click", "long_view", "play_time_ms")
        plain = attributes(spec, "activity")
        return (INDEX, "user_id", "time_ms", *outcomes, *spec.channels, *self.ACTIVITY, *plain)

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Scale the normalized time, and name channel and activity by their one-hot columns."""
        share = number(raw["time_ms"])
        share = ibis.ifelse(share.between(0, 1), share, ibis.null("float64"))
        columns = {
            "user_id": id_text(raw["user_id"]),
            "timestamp": time_of_micros(_nearest(share * self.DAYS * 86_400e6) + START),
            "channel": one_hot_text(raw, spec.channels),
            **of_videos(raw),
            "activity": one_hot(raw, self.ACTIVITY)[0],
            SAME: raw[INDEX].cast("string"),
        }
        return lay_out(raw, spec, columns)


class CriteoSequence(Adapter):
    """Display ads; the channels are the eleven values of cat8.

    The file has no time, so the row index, which increases through the file, serves as seconds. There is no revenue.
    """

    source: ClassVar[Mapping[str, str]] = {
        **{"user_id": "uid", "timestamp": INDEX, "campaign_id": "campaign", "channel": "Type_*"}
    }
    never_context: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("click", "conversion", "attribution", "click_nb", "cpo"), OUTCOME),
        "cat8": CHANNEL,
    }

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Return the sample's columns; channels are one-hot."""
        return (INDEX, "uid", "campaign", "conversion", "click", "cost", *spec.channels, *attributes(spec))

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Use the row number as seconds, and name campaign and channel."""
        # The file has campaigns as normalized numbers, so they are named by rank.
        raw = raw.mutate({"#campaign": number(raw["campaign"])})
        campaigns = raw.filter(raw["#campaign"].notnull()).select("#campaign").distinct()
        ranks = campaigns.mutate({"#rank": ibis.row_number().over(order_by="#campaign")})
        raw = raw.left_join(ranks, "#campaign")
        seconds = number(raw[INDEX])
        seconds = ibis.ifelse(seconds.between(0, 1e9), seconds, ibis.null("float64"))
        columns = {
            "user_id": id_text(raw["uid"]),
            "timestamp": time_of_micros(seconds * 1e6 + START),
            "campaign_id": "c" + raw["#rank"].cast("string"),
            "channel": one_hot_text(raw, spec.channels),
            "revenue": ibis.literal(0.0),
        }
        return lay_out(raw, spec, columns)


def of_videos(raw: ibis.Table) -> dict[str, ibis.Value]:
    """Return the columns of a KuaiRand log: it has no campaign and no cost, so each exposure costs 1."""
    same = {"campaign_id": ibis.literal("kuairand"), "cost": ibis.literal(1.0)}
    return same | {"click": raw["is_click"], "conversion": raw["long_view"], "revenue": raw["play_time_ms"]}


def _nearest(value: ibis.Value) -> ibis.Value:
    """Round to the nearest integer and halves to even, as NumPy and pandas do; DuckDB would round halves up."""
    return ibis.ifelse(value - value.floor() == 0.5, (value / 2).round() * 2, value.round())
