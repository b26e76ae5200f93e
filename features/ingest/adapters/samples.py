"""Reads the two processed samples that the authors of MTORL published with their notebooks."""

from collections.abc import Mapping
from typing import ClassVar

import ibis

from features.ingest.adapters.base import CHANNEL, OUTCOME, SAME, Adapter, attributes, lay_out, one_hot, one_hot_text
from features.ingest.adapters.files import INDEX
from features.ingest.adapters.values import id_text, number, time_of_micros
from mtorl.log.dataset import DatasetSpec

# Arbitrary start of the log in microseconds since 1970 (2024-01-01 UTC), because the samples have no dates.
START = 1_704_067_200_000_000


class KuaiRandSequence(Adapter):
    """Adapter for the published sample of KuaiRand. The channel is the length of a video: short, mid or long."""

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
        """Return the columns that the sample must have. Channel and activity are stored as one-hot columns."""
        outcomes = ("is_click", "long_view", "play_time_ms")
        plain = attributes(spec, "activity")
        return (INDEX, "user_id", "time_ms", *outcomes, *spec.channels, *self.ACTIVITY, *plain)

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Scale the times to 30 days, and decode the one-hot columns of channel and activity."""
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
    """Adapter for the published sample of Criteo. The channels are the eleven values of the column cat8.

    The sample has no times, so the row index serves as the time in seconds.
    """

    source: ClassVar[Mapping[str, str]] = {
        **{"user_id": "uid", "timestamp": INDEX, "campaign_id": "campaign", "channel": "Type_*"}
    }
    never_context: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("click", "conversion", "attribution", "click_nb", "cpo"), OUTCOME),
        "cat8": CHANNEL,
    }

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Return the columns that the sample must have. The channel is stored as one-hot columns."""
        return (INDEX, "uid", "campaign", "conversion", "click", "cost", *spec.channels, *attributes(spec))

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Read the row index as seconds, name the campaigns, and decode the one-hot columns of the channel."""
        # The sample has normalized numbers in place of campaign ids. A campaign is named by the rank of its number.
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
    """Return the columns that both KuaiRand layouts share: one campaign, a cost of 1, and the outcomes."""
    same = {"campaign_id": ibis.literal("kuairand"), "cost": ibis.literal(1.0)}
    return same | {"click": raw["is_click"], "conversion": raw["long_view"], "revenue": raw["play_time_ms"]}


def _nearest(value: ibis.Value) -> ibis.Value:
    """Round to the nearest integer, and halves to the even integer as NumPy does. DuckDB rounds halves up."""
    return ibis.ifelse(value - value.floor() == 0.5, (value / 2).round() * 2, value.round())
