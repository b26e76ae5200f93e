"""A feature repository and windows of a toy log, and a slow computation of their values."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import redis
import yaml

from features.engine import open_engine
from features.offline import store
from features.sequences import builder as sequences
from mtorl.log.dataset import DatasetSpec
from mtorl.window.table import WindowTable
from mtorl.window.window import AD_DECISION
from serving.router.flow.features import FeastSource, UserFeatures
from serving.router.flow.requests import DecisionRequest

US, HOUR, DAY = (pd.Timedelta(1, unit) for unit in ("us", "h", "D"))
STATS = ("campaign_touchpoints", "campaign_click_rate", "campaign_conversion_rate", "campaign_cost")
COUNTED = ("uc_touchpoints", "uc_clicks", *STATS)


AGGREGATES: list[dict[str, Any]] = yaml.safe_load("""
- view: user_channel
  fields:
  - {name: uc_touchpoints, kind: numeric, by_channel: true, missing: zero}
  - {name: uc_clicks, kind: numeric, by_channel: true, missing: zero}
- view: campaign_stats
  fields:
  - {name: campaign_touchpoints, kind: numeric, missing: zero}
  - {name: campaign_click_rate, kind: numeric, missing: unknown}
  - {name: campaign_conversion_rate, kind: numeric, missing: unknown}
  - {name: campaign_cost, kind: numeric, missing: unknown}
""")
"""All built-in aggregates as model input, as a data set description chooses them."""


@dataclass(frozen=True)
class FeatureRun:
    """A folder with a log, its feature repository (features/) and its windows (windows/)."""

    toy: Any
    folder: Path
    log: pd.DataFrame
    spec: DatasetSpec
    redis_port: int = 0  # of the online store; 0 means SQLite
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.folder / "features")
        if not self.spec.features:
            object.__setattr__(self, "spec", self.spec.replace(features=AGGREGATES))
        self.folder.mkdir(exist_ok=True)

    @property
    def path(self) -> Path:
        return self.toy.write(self.log, self.folder / "log.parquet")

    def create(self) -> FeatureRun:
        if self.redis_port and not self.root.exists():
            self.empty_redis()
            settings = yaml.safe_load(store.CONFIG.read_text())
            settings["online_store"] = {"type": "redis", "connection_string": f"127.0.0.1:{self.redis_port}"}
            self.root.mkdir()
            (self.root / store.CONFIG.name).write_text(yaml.safe_dump(settings))  # `create` keeps it, as on a cluster
        store.create(self.root, self.spec, self.path)
        return self

    def build(self) -> pd.DataFrame:
        with open_engine() as engine:
            sequences.build(engine, self.path, self.spec, self.folder / "windows")
        assert store.training_windows(self.root, self.folder / "windows", self.spec) == len(self.log)
        return self.steps()

    def steps(self) -> pd.DataFrame:
        return pq.read_table(self.folder / "windows" / "steps").to_pandas()

    def table(self) -> WindowTable:
        return WindowTable.load(self.folder / "windows")

    def read(self, users: Sequence[str], at: pd.Timestamp, campaign: str = "c1") -> dict[str, UserFeatures]:
        requests = [DecisionRequest(user, campaign, {}, micros(at)) for user in users]
        return dict(zip(users, FeastSource(self.root, AD_DECISION).read(requests), strict=True))

    def empty_redis(self) -> None:
        if self.redis_port:
            with redis.Redis(port=self.redis_port) as client:
                client.flushall()


def micros(at: pd.Timestamp) -> int:
    return int(at.value // 1000)


def random_journeys(toy: Any, seed: int, late: float = 0.4, batch: bool = False) -> pd.DataFrame:
    """Return random touchpoints that are 1 us to 40 days apart, some with nulls.

    `late` is the share of touchpoints that arrive late. With `batch`, they arrive just after a full hour.
    """
    rng = np.random.default_rng(seed)
    log = toy.log(seed, users=8, late=late)
    pauses = pd.Series(rng.choice([0, 1, 8, 40], len(log), p=[0.7, 0.2, 0.05, 0.05]) * DAY, log.index)
    pauses = pauses.groupby(log["user_id"]).cumsum()
    log["timestamp"] += pauses
    log["campaign_id"] = log["campaign_id"].where(rng.random(len(log)) < 0.9, None)
    if late:
        arrived = log["created_timestamp"] + pauses
        if batch:
            arrived = arrived.dt.ceil("h") + 500 * US
        on_time = arrived == log["timestamp"]
        log["created_timestamp"] = arrived.mask(on_time & (rng.random(len(log)) < 0.3))
    return log


def with_times(log: pd.DataFrame, outcomes: Sequence[str], seed: int) -> pd.DataFrame:
    """Add times up to ten days after the touchpoint to nine tenths of the outcomes."""
    rng = np.random.default_rng(seed)
    for name in outcomes:
        delay = pd.Series(rng.choice([0, 1, 60_000_000, 5_400_000_000, 10 * 86_400_000_000], len(log)), log.index)
        unsaid = (log[name] == 0) | (rng.random(len(log)) < 0.1)
        log[f"{name}_time"] = (log["timestamp"] + pd.to_timedelta(delay, unit="us")).mask(unsaid)
    return log


def known_since(log: pd.DataFrame) -> pd.Series:
    return log[["timestamp", "created_timestamp"]].max(axis=1) if "created_timestamp" in log else log["timestamp"]


def expected_features(
    spec: DatasetSpec, log: pd.DataFrame, user: str, campaign: str | None, at: pd.Timestamp
) -> dict[str, Any]:
    since = known_since(log)
    seen = log[since < at]
    mine = seen[seen["user_id"] == user]
    hour = (at - US).floor("h")  # the end of the last full hour

    def of_last(rows: pd.DataFrame, days: int) -> pd.DataFrame:
        return rows[(since[rows.index] >= hour - days * DAY) & (since[rows.index] < hour)]

    by_channel = [of_last(mine, 7).query("channel == @name") for name in spec.channels]
    ads = of_last(seen[seen["campaign_id"] == campaign], 1)
    first = log[log["user_id"] == user].sort_values("timestamp")
    return {
        **{c.name: none_if_missing(first[c.name].iloc[0]) if len(first) else None for c in spec.static},
        "uc_touchpoints": [float(len(rows)) for rows in by_channel],
        "uc_clicks": [float(rows["click"].sum()) for rows in by_channel],
        "campaign_touchpoints": float(len(ads)),
        **{f"campaign_{n}_rate": none_if_missing(ads[n].mean()) for n in ("click", "conversion")},
        "campaign_cost": none_if_missing(ads["cost"].mean()),
    }


def nearly_equal(found: Any, expected: Any) -> bool:
    """Return whether two features are equal apart from rounding; None equals NaN."""
    if isinstance(found, list | np.ndarray):
        return list(found) == expected
    found = none_if_missing(found)
    if isinstance(found, float) and isinstance(expected, float):
        return bool(np.isclose(found, expected, rtol=1e-9, atol=1e-9))
    return found == expected


def none_if_missing(value: Any) -> Any:
    return None if value is None or value is pd.NaT or value != value else value


def with_one_more_touchpoint(
    toy: Any, log: pd.DataFrame, users: Sequence[str], seed: int = 0, after: pd.Timedelta = HOUR
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    more = pd.DataFrame([toy.touchpoint(user, log["timestamp"].max() + after, 7, rng) for user in users])
    for name in ("age", "tenure"):
        had = functools.partial(log.groupby("user_id")[name].first().get)
        more[name] = [had(user, value) for user, value in zip(more["user_id"], more[name], strict=True)]
    if "created_timestamp" in log:
        more["created_timestamp"] = more["timestamp"]
    return pd.concat([log, more.astype(log.dtypes[more.columns])], ignore_index=True)


def plain(values: Any) -> list[Any]:
    return [None if v == "" or pd.isna(v) else v for v in values]


def check_router_reads(run: FeatureRun, log: pd.DataFrame, users=None, campaign: str = "c1") -> None:
    at = known_since(log).max() + US
    users = list(users if users is not None else log["user_id"].unique())
    for user, found in run.read(users, at, campaign).items():
        assert found.has_history, user
        assert {name: plain(values) for name, values in found.history.items()} == run.toy.past(log, user, at)
        expected = expected_features(run.spec, log, user, campaign, at)
        values = {**found.static, **found.aggregates}
        assert set(values) == set(expected)
        assert {n: (values[n], expected[n]) for n in expected if not nearly_equal(values[n], expected[n])} == {}
