"""Simulates decision logs of many days: users, the model's predictions, and outcomes.

    days = Days(users_a_day=2_000, seed=1)
    rows = days.rows(12)                # healthy
    rows = days.rows(12, shift)         # changed by a `Shift`
    add_to_lake(folder, days.records(12, rows))

Each day multiplies all click rates by a random factor, and all costs by another one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mtorl.log.decision_ids import BUCKET, HOUR, bucket_of
from mtorl.log.lake import name_of
from mtorl.log.records import Kind, sql_columns

# A Monday in the past, because the monitor ignores records from the future.
START = datetime(2025, 3, 3, tzinfo=UTC)
CHANNELS = ("search", "social", "display", "video")
COLUMNS = ("device", "placement", "hour")

Shift = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
"""Type of a function that changes the rows of a day, before clicks are drawn and costs are paid."""


_SAME = {"experiment": "spring", "stage": "off", "assignment_probability": 1.0, "propensity": 0.25}
_SAME |= {"withdrawn": False, "override": False, "model_digest": "sha256:test", "latency_seconds": 0.01}
_SAME |= {"features_found": True, "feature_hash": "0" * 16, "static": "{}"}
# Opening a connection takes longer than writing a small file, so all files share one.
_database = cache(duckdb.connect)


def healthy(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return rows


@dataclass(frozen=True)
class Days:
    """Simulates the days of one market.

    Attributes:
        users_a_day: Number of users per day, with 1.5 decisions each on average.
        spread: Standard deviation of the logarithm of a day's random factors.
        weekend: Relative decrease of click rates at weekends.
        moving_context: Whether users have other devices at weekends.
        further: Number of additional numeric columns of noise.
        pool: Number of different users. The value 0 means eight times `users_a_day`.
    """

    users_a_day: int = 2_000
    seed: int = 0
    spread: float = 0.02
    weekend: float = 0.1
    moving_context: bool = True
    further: int = 0
    pool: int = 0

    @property
    def users(self) -> int:
        """Number of different users."""
        return self.pool or self.users_a_day * 8

    def rows(self, number: int, shift: Shift = healthy) -> pd.DataFrame:
        """Simulate a day, and return one row for each decision, with outcomes and context."""
        rng = np.random.default_rng([self.seed, number])
        rows = shift(self._rows(number, rng), rng)
        return rows.assign(clicked=rng.random(len(rows)) < rows["rate"])

    def records(self, number: int, rows: pd.DataFrame, with_context: bool = True) -> dict[Kind, pd.DataFrame]:
        """Convert a day's rows to records of decisions and outcomes."""
        decided, rows = START + timedelta(days=number), rows.reset_index(drop=True)
        times = (pd.to_datetime(decided) + pd.to_timedelta(rows["hour"], unit="h")).dt.tz_convert("UTC")
        columns = self.columns if with_context else ()
        values = rows[list(columns)].to_numpy(dtype=object)
        context = [json.dumps(_plain(dict(zip(columns, each, strict=True)))) for each in values]
        seen = rows["history"] > 0
        made = {
            "decision_id": _ids(rows["user_id"], times, self.seed),
            "user_id": rows["user_id"],
            "arm": rows.get("arm", "incumbent"),
            "drawn_channel": rows["channel"],
            "channel": rows["channel"],
            "expose": rows["expose"],
            "expected_reward": rows["expected"],
            "budget_exhausted": rows["exhausted"],
            "history_length": rows["history"],
            "last_channel": rows["channel"].where(seen, None),
            "last_time": (times - pd.Timedelta(hours=1)).where(seen),
            "request_time": times,
            "event_time": times,
            "context": context,
        }
        decisions = pd.DataFrame(made).assign(**_SAME)
        shown = rows["expose"].to_numpy()
        clicked = shown & rows["clicked"].to_numpy()
        kinds = (("cost", shown, rows["cost"].to_numpy()), ("click", clicked, np.ones(len(rows))))
        events = [
            decisions.loc[of, ["decision_id", "event_time"]].assign(
                event_id=kind + "-" + decisions["decision_id"][of],
                kind=kind,
                value=values[of],
                received_time=decisions["event_time"][of],
            )
            for kind, of, values in kinds
        ]
        return {"decision": decisions, "outcome": pd.concat(events, ignore_index=True)}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the context columns."""
        return (*COLUMNS, *(f"number_{i}" for i in range(self.further)))

    def sample(self, days: int = 14) -> pd.DataFrame:
        """Simulate days that are not monitored, as a training sample."""
        rows = pd.concat([self._rows(n, np.random.default_rng([self.seed, n])) for n in range(700, 700 + days)])
        return rows[["user_id", *self.columns]].sort_values("user_id", kind="stable").reset_index(drop=True)

    def _rows(self, number: int, rng: np.random.Generator) -> pd.DataFrame:
        users = rng.choice(self.users, self.users_a_day, replace=False)
        user = np.repeat(users, 1 + (rng.random(self.users_a_day) < 0.5))
        taste = np.random.default_rng([self.seed, 10**6]).normal(0.0, 0.5, self.users)[user]
        weekend = number % 7 >= 5
        own = rng.normal(0.0, self.spread, 2)
        mobile = np.random.default_rng([self.seed, 10**6 + 1]).random(self.users)[user]
        device = np.where(mobile < (0.75 if weekend and self.moving_context else 0.6), "mobile", "desktop")
        placement = rng.choice(["feed", "story", "article"], len(user), p=[0.5, 0.3, 0.2])
        score = -2.2 + taste + 0.4 * (device == "mobile") + 0.3 * (placement == "story")
        expected = 1.0 / (1.0 + np.exp(-score))
        channel = rng.choice(CHANNELS, len(user))
        rows = {
            "user_id": [f"u{each}" for each in user],
            "hour": rng.random(len(user)) * 23.9,
            "device": device,
            "placement": placement,
            "channel": channel,
            "expose": rng.random(len(user)) < 0.6,
            "exhausted": False,
            "expected": expected,
            "rate": expected * (np.exp(own[0]) * (1.0 - self.weekend * weekend)),
            "cost": 0.3 * np.exp(own[1] + rng.normal(0.0, 0.3, len(user))),
            "history": rng.integers(0, 8, len(user)),
        }
        rows |= {f"number_{i}": rng.lognormal(size=len(user)) for i in range(self.further)}
        return pd.DataFrame(rows)


def add_to_lake(folder: Path, records: Mapping[Kind, pd.DataFrame], name: str = "day") -> None:
    """Add records to a lake like a router, one file per kind. Missing fields become null."""
    for kind, rows in records.items():
        there = {field: f'"{field}"' if field in rows else "NULL" for field in sql_columns(kind)}
        typed = ", ".join(f'CAST({there[field]} AS {type_}) AS "{field}"' for field, type_ in sql_columns(kind).items())
        with _database().cursor() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.register("rows", rows)
            placed = f"SELECT *, {HOUR} AS hour, {BUCKET} AS bucket FROM (SELECT {typed} FROM rows)"
            table = db.sql(placed).order("decision_id").to_arrow_table()
        file = folder / name_of(kind, table["hour"].to_pandas().max(), name, arrived=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)


def _ids(users: pd.Series, times: pd.Series, seed: int) -> list[str]:
    made = zip(users, times.astype("datetime64[ms, UTC]").astype("int64"), strict=True)
    return [
        f"{f'{at:012x}'[:8]}-{f'{at:012x}'[8:]}-7{bucket_of(user):02x}0-8000-{seed % 65_536:04x}{i:08x}"
        for i, (user, at) in enumerate(made)
    ]


def _plain(context: dict[str, object]) -> dict[str, object]:
    return {name: None if value is None or value != value else value for name, value in context.items()}
