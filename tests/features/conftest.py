"""A small data set with the irregularities of real logs, and a slow computation of users' histories."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtorl.log.dataset import Column, DatasetSpec

SPEC = DatasetSpec(
    name="toy",
    channels=("search", "social", "video"),
    context=(
        Column(name="hour", kind="numeric", missing="unknown"),
        Column(name="order", kind="categorical", missing="unknown"),  # an SQL keyword
    ),
    static=(Column(name="age", kind="categorical"), Column(name="tenure", kind="numeric", missing="unknown")),
    outcomes=(Column(name="seconds", kind="numeric", missing="unknown"),),  # known after the exposure: play time
    segment="age",
    propensity="logged",
    window=4,
)
START = pd.Timestamp("2024-05-01 06:00", tz="UTC")


@dataclass(frozen=True)
class Toy:
    """The toy data set: its description, random logs, and the expected histories."""

    spec: DatasetSpec

    def log(self, seed: int = 0, users: int = 12, late: float = 0.0) -> pd.DataFrame:
        """Return random journeys of 1 to 9 touchpoints, some of them only 1 us apart.

        `late` is the share of touchpoints that arrive up to 3 hours late. With 0, the log has no column
        `created_timestamp`.
        """
        rng = np.random.default_rng(seed)
        rows = []
        for user in range(users):
            length = 1 if user == 0 else int(rng.integers(1, 10))
            steps = rng.choice([1, 60_000_000, 3_600_000_000], size=length)
            for step, offset in enumerate(np.cumsum(steps) + 10_000_000 * int(rng.integers(0, 2))):
                rows.append(self.touchpoint(f"u{user}", START + pd.Timedelta(int(offset), "us"), step, rng))
        log = pd.DataFrame(rows)
        if late:
            delay = np.where(rng.random(len(log)) < late, rng.integers(0, 3 * 3_600_000_000, len(log)), 0)
            log["created_timestamp"] = log["timestamp"] + pd.to_timedelta(delay, unit="us")
        return log

    def touchpoint(self, user: str, at: pd.Timestamp, step: int, rng: np.random.Generator) -> dict[str, Any]:
        cost = float(step) + rng.random()
        return {
            "user_id": user,
            "timestamp": at,
            "campaign_id": str(rng.choice(["c1", "c2"])),
            "channel": str(rng.choice(SPEC.channels)),
            "cost": cost,
            "click": int(rng.integers(0, 2)),
            "conversion": int(rng.integers(0, 2)),
            "revenue": 2 * cost,
            "propensity": 0.3,
            "hour": None if rng.random() < 0.2 else float(at.hour),
            "order": None if rng.random() < 0.2 else str(rng.choice(["first", "again"])),
            "age": "old" if user == "u1" else "young",
            "tenure": None if user == "u2" else float(len(user)),
            "seconds": None if rng.random() < 0.2 else rng.random(),
        }

    def write(self, log: pd.DataFrame, path: Path) -> Path:
        times = {c: "datetime64[us, UTC]" for c in log if c.endswith(("timestamp", "_time"))}
        log.astype({**times, "hour": float, "tenure": float, "seconds": float}).to_parquet(path, index=False)
        return path

    def past(self, log: pd.DataFrame, user: str, before: pd.Timestamp, n: int | None = None) -> dict[str, list[Any]]:
        """Return the columns of a user's last `n` touchpoints that had arrived strictly before `before`."""
        arrived = log["created_timestamp"] if "created_timestamp" in log else log["timestamp"]
        known = log[(log["user_id"] == user) & (log["timestamp"] < before) & (arrived < before)]
        known = known.sort_values("timestamp").tail(n or self.spec.window)
        names = ["channel", "click", "conversion", "revenue", "cost", *(c.name for c in self.spec.context)]
        lists = {f"hist_{name}": [none_if_null(v) for v in known[name]] for name in names}
        return {**lists, "hist_timestamp": [float(t.value // 1000) for t in known["timestamp"]]}


def none_if_null(value: Any) -> Any:
    return None if pd.isna(value) else value


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy(SPEC)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()
