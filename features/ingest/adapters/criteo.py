"""Reads the Criteo Attribution Modeling data set as published."""

from collections.abc import Mapping
from functools import reduce
from typing import ClassVar

import ibis

from features.ingest.adapters.base import CHANNEL, OUTCOME, SAME, Adapter, attributes, lay_out
from features.ingest.adapters.samples import START
from features.ingest.adapters.values import null_where, number, text, time_of_micros
from mtorl.log.dataset import DatasetSpec

_OUTCOMES = ("conversion", "conversion_timestamp", "conversion_id", "attribution", "click", "click_pos", "click_nb")
_MISSING = ("conversion_timestamp", "conversion_id", "click_pos", "click_nb", "time_since_last_click")  # -1


class CriteoAttribution(Adapter):
    """Adapter for the Criteo attribution log. The channel is "Type_" followed by cat8."""

    CATEGORIES = tuple(f"cat{i}" for i in range(1, 10))
    source: ClassVar[Mapping[str, str]] = {"user_id": "uid", "campaign_id": "campaign", "channel": "cat8"}
    never_context: ClassVar[Mapping[str, str]] = {**dict.fromkeys((*_OUTCOMES, "cpo"), OUTCOME), "cat8": CHANNEL}

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Return a fixed list of columns, and those that the data set description uses."""
        base = ("timestamp", "uid", "campaign", "conversion", "attribution", "click", "cost", *self.CATEGORIES)
        return tuple(dict.fromkeys((*base, *attributes(spec))))

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Compute the channel from cat8 and the time from the seconds, and replace -1 by null."""
        columns = {
            "user_id": text(raw["uid"]),
            "timestamp": time_of_micros(number(raw["timestamp"]) * 1e6 + START),
            "campaign_id": text(raw["campaign"]),
            "channel": "Type_" + text(raw["cat8"]),
            "revenue": ibis.literal(0.0),
            **{name: null_where(raw[name], -1) for name in _MISSING if name in raw.columns},
            SAME: reduce(lambda a, b: a + "|" + b, (text(raw[c]).fill_null("") for c in ("cost", *self.CATEGORIES))),
        }
        return lay_out(raw, spec, columns)
