"""Simulates a decision log of many days with known truth: users, the model's expectations, and outcomes.

    days = Days(users_a_day=2_000, seed=1)
    rows = days.rows(12)                # healthy
    rows = days.rows(12, shift)         # changed by a `Shift`
    add_to_lake(folder, days.records(12, rows))

Days differ like real days: each day has a random factor on all its click rates and one on all its prices, and weekends
differ. Some users return the next day. The model's expectations are calibrated for the average day.
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

START = datetime(2025, 3, 3, tzinfo=UTC)  # a Monday in the past, since the monitor ignores records with a future date
CHANNELS = ("search", "social", "display", "video")
COLUMNS = ("device", "placement", "hour")

Shift = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
"""Changes the rows of a day, before clicks are drawn and costs are paid."""


_SAME = {"experiment": "spring", "stage": "off", "assignment_probability": 1.0, "propensity": 0.25}
_SAME |= {"withdrawn": False, "override": False, "model_digest": "sha256:test", "latency_seconds": 0.01}
_SAME |= {"features_found": True, "feature_hash": "0" * 16, "static": "{}"}
_database = cache(duckdb.connect)  # one connection, since opening it takes longer than writing a small file


def healthy(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """No shift."""
    return rows


@dataclass(frozen=True)
class Days:
    """Simulates days.

    Attributes:
        users_a_day: Users who come on a day, with 1.5 decisions each on average.
        spread: Standard deviation of a day's random factors (in logarithms), on click rates and on prices.
        weekend: Relative reduction of click rates on Saturdays and Sundays.
        moving_context: Whether the mix of devices differs on a Saturday or Sunday.
        further: Number of numeric columns that are noise.
        pool: Number of users from whom a day's users are drawn; 0: eight times `users_a_day`.
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
        """Number of users from whom each day's users are drawn."""
        return self.pool or self.users_a_day * 8

    def rows(self, number: int, shift: Shift = healthy) -> pd.DataFrame:
        """The decisions of a day, one in each row, with outcomes and context."""
        rng = np.random.default_rng([self.seed, number])
        rows = shift(self._rows(number, rng), rng)
        return rows.assign(clicked=rng.random(len(rows)) < rows["rate"])

    def records(self, number: int, rows: pd.DataFrame, with_context: bool = True) -> dict[Kind, pd.DataFrame]:
        """Convert the rows of a day to records of decisions and outcomes."""
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
        """The context columns."""
        return (*COLUMNS, *(f"number_{i}" for i in range(self.further)))

    def sample(self, days: int = 14) -> pd.DataFrame:
        """A model's training data: user and context columns of two weeks that are not monitored."""
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
    """Add records like a router: a file for each kind, in the newest decision's hour; missing fields are null."""
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
