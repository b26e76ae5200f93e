"""From a file's own columns to those of the touchpoint log.

An adapter renames and folds; it judges nothing. Values that may be faulty stay as they are in the file, so that
`log.validate` can show them, and one that can't be made out becomes null.

To add one: write a class like the ones below, add it to `ADAPTERS`, and name it in the data set's YAML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from mtorl.dataset import DatasetSpec, SpecError

_START = pd.Timestamp("2024-01-01", tz="UTC")  # made up: the authors' samples have no calendar time
INDEX = "Unnamed: 0"  # pandas' name for the samples' first column, which has none


@dataclass(frozen=True)
class Adapted:
    """Rows in the order of the file."""

    frame: pd.DataFrame  # the columns of spec.columns
    source: Mapping[str, str]  # what the file calls a column, where it has another name


class Adapter(Protocol):
    """Knows one file layout."""

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Columns that the file must have."""

    def text(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Columns to read as text even where they look like numbers."""

    def adapt(self, raw: pd.DataFrame, spec: DatasetSpec) -> Adapted:
        """Lay the file's columns out as the touchpoint log's."""


class Touchpoints:
    """A file that already has the canonical columns; propensity is optional unless the data set says it is logged."""

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """See `Adapter`."""
        return tuple(c for c in spec.columns if c != "propensity" or spec.propensity == "logged")

    def text(self, spec: DatasetSpec) -> tuple[str, ...]:
        """See `Adapter`."""
        categorical = (c.name for c in (*spec.context, *spec.static) if c.kind == "categorical")
        return ("user_id", "timestamp", "campaign_id", "channel", *categorical)

    def adapt(self, raw: pd.DataFrame, spec: DatasetSpec) -> Adapted:
        """See `Adapter`."""
        return Adapted(raw.reindex(columns=list(spec.columns)), {})


class KuaiRandSequence:
    """The MTORL authors' KuaiRand sample.

    Time is min-max normalised in the file; it is stretched over 30 made-up days, and rows of a user at the same time
    are put 1 us apart in the order of the file. The log has no cost, so each exposure counts as 1.
    """

    ACTIVITY = (
        *("2_14_day_new", "30day_retention", "UNKNOWN", "day_new", "full_active", "high_active", "low_active"),
        *("middle_active", "single_low_active"),
    )
    SOURCE: Mapping[str, str] = {
        "timestamp": "time_ms",
        "click": "is_click",
        "conversion": "long_view",
        "revenue": "play_time_ms",
        "channel": "short, mid, long",
        "activity": "2_14_day_new ... single_low_active",
    }

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """See `Adapter`."""
        plain = (c.name for c in (*spec.context, *spec.static) if c.name != "activity")
        outcomes = ("is_click", "long_view", "play_time_ms")
        return (INDEX, "user_id", "time_ms", *outcomes, *spec.channels, *self.ACTIVITY, *plain)

    def text(self, spec: DatasetSpec) -> tuple[str, ...]:
        """See `Adapter`."""
        return ("user_id",)

    def adapt(self, raw: pd.DataFrame, spec: DatasetSpec) -> Adapted:
        """See `Adapter`."""
        user = raw["user_id"].str.removesuffix(".0")
        columns = {
            "user_id": user,
            "timestamp": _spread(user, _number(raw["time_ms"]), _number(raw[INDEX]), days=30),
            "campaign_id": "kuairand",
            "channel": _fold(raw, spec.channels).fillna(_not_one_hot(raw, spec.channels)),
            "cost": 1.0,
            "click": raw["is_click"],
            "conversion": raw["long_view"],
            "revenue": raw["play_time_ms"],
            "propensity": np.nan,
            "activity": _fold(raw, self.ACTIVITY),
        }
        frame = pd.DataFrame({c: columns[c] if c in columns else raw[c] for c in spec.columns}, index=raw.index)
        return Adapted(frame, self.SOURCE)


class CriteoSequence:
    """The MTORL authors' Criteo sample.

    It has no time: the row index, which increases through the file, is taken as seconds. It has no revenue either.
    """

    SOURCE: Mapping[str, str] = {"user_id": "uid", "timestamp": INDEX, "campaign_id": "campaign", "channel": "Type_*"}

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """See `Adapter`."""
        return (
            *(INDEX, "uid", "campaign", "conversion", "click", "cost", *spec.channels),
            *(c.name for c in (*spec.context, *spec.static)),
        )

    def text(self, spec: DatasetSpec) -> tuple[str, ...]:
        """See `Adapter`."""
        return ("uid",)

    def adapt(self, raw: pd.DataFrame, spec: DatasetSpec) -> Adapted:
        """See `Adapter`."""
        seconds = _number(raw[INDEX])
        seconds = seconds.where(seconds.between(0, 1e9))
        campaign, _ = pd.factorize(_number(raw["campaign"]), sort=True)  # the file has a normalised number
        columns = {
            "user_id": raw["uid"].str.removesuffix(".0"),
            "timestamp": _START + pd.to_timedelta(seconds, unit="s"),
            "campaign_id": pd.Series(campaign, raw.index).map(lambda code: f"c{code}" if code >= 0 else None),
            "channel": _fold(raw, spec.channels).fillna(_not_one_hot(raw, spec.channels)),
            "revenue": 0.0,
            "propensity": np.nan,
        }
        frame = pd.DataFrame({c: columns[c] if c in columns else raw[c] for c in spec.columns}, index=raw.index)
        return Adapted(frame, self.SOURCE)


ADAPTERS: Mapping[str, Adapter] = {
    "touchpoints": Touchpoints(),
    "simulator": Touchpoints(),
    "kuairand-sequence": KuaiRandSequence(),
    "criteo-sequence": CriteoSequence(),
}


def adapter_of(spec: DatasetSpec) -> Adapter:
    """The adapter that a data set names.

    Raises:
        SpecError: there is none of that name.
    """
    if spec.adapter not in ADAPTERS:
        raise SpecError(f"adapter: {spec.adapter!r} is not one of {', '.join(ADAPTERS)}")
    return ADAPTERS[spec.adapter]


def _number(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values, errors="coerce").astype(float)


def _is_set(values: pd.Series) -> pd.Series:
    if values.dtype == object:  # text, as soon as one value of the column is rubbish
        return values.astype(str).isin(["1", "1.0", "True", "true"])
    return values == 1


def _fold(raw: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """The name of the one column that is 1; null where none or several are."""
    one_hot = np.column_stack([_is_set(raw[name]) for name in names])
    chosen = np.array(names, dtype=object)[one_hot.argmax(axis=1)]
    return pd.Series(np.where(one_hot.sum(axis=1) == 1, chosen, None), index=raw.index, dtype=object)


def _not_one_hot(raw: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    count = sum(_is_set(raw[name]).astype(int) for name in names)
    return pd.Series(count, index=raw.index).astype(str) + f" of {len(names)} one-hot columns set"


def _spread(user: pd.Series, share: pd.Series, index: pd.Series, days: int) -> pd.Series:
    """Times from shares of a period, strictly increasing inside a user; a repeated row index repeats its time."""
    at = (share.where(share.between(0, 1)) * days * 86_400e6).round()
    rows = pd.DataFrame({"user": user, "at": at, "index": index}).sort_values(["user", "at", "index"], kind="stable")
    # t_i = max(t_i, t_{i-1} + 1 us) in closed form: i + cummax(t_i - i).
    turn = (rows["index"] != rows.groupby("user", dropna=False)["index"].shift()).groupby(rows["user"], dropna=False)
    place = turn.cumsum()
    at = place - 1 + (rows["at"] - place + 1).groupby(rows["user"], dropna=False).cummax()
    return (_START + pd.to_timedelta(at, unit="us")).reindex(user.index)
