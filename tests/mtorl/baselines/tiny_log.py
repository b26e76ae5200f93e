"""A small data set with two channels for the tests of the baselines."""

from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from mtorl.log.dataset import DatasetSpec
from mtorl.window.window import WindowBatch

DESCRIPTION = """
{name: tiny, description: two channels, channels: [search, social], propensity: channel-frequency, window: 4,
context: [{name: hour, kind: numeric}, {name: device, kind: categorical, missing: unknown}],
static: [{name: age, kind: numeric, missing: unknown}], segment: null, reward: {gain: click}, currency: EUR}
"""
SPEC = DatasetSpec.from_dict(yaml.safe_load(DESCRIPTION))


def steps(rows: list[dict[str, Any]]) -> pa.Table:
    """Return a table with these rows in order of time; missing columns get defaults."""
    base = {"click": 0, "conversion": 0, "revenue": 0.0, "cost": 1.0, "hour": 8.0, "device": "tv", "age": None}
    filled = [{**base, **row, "timestamp": 1_700_000_000_000_000 + i * 60_000_000} for i, row in enumerate(rows)]
    filled.sort(key=lambda row: row["user_id"])
    types = {"timestamp": pa.timestamp("us", "UTC"), "age": pa.float64()}
    table = pa.Table.from_pylist(filled)
    return table.cast(pa.schema([(field.name, types.get(field.name, field.type)) for field in table.schema]))


def windows(rows: list[dict[str, Any]], spec: DatasetSpec = SPEC) -> WindowBatch:
    return WindowBatch.from_steps(steps(rows), None, spec, targets=True)


def journey(user: str, letters: str, **more: Any) -> list[dict[str, Any]]:
    """Return one touchpoint per letter: "s" for search, "o" for social, a capital letter for a click."""
    names = {"s": "search", "o": "social"}
    return [
        {"user_id": user, "channel": names[letter.lower()], "click": int(letter.isupper()), "cost": i + 1.0, **more}
        for i, letter in enumerate(letters)
    ]


def sticky_log(users: int = 300, seed: int = 0) -> list[dict[str, Any]]:
    """Return a log whose users mostly stay on a channel.

    The second of two touchpoints in a row on search is often clicked. A touchpoint costs 5 on social and 1 on search.
    """
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        before = "social"
        for _ in range(6):
            channel = before if random.random() < 0.8 else str(random.choice(SPEC.channels))
            click = int(random.random() < (0.9 if channel == before == "search" else 0.1))
            cost = 5.0 if channel == "social" else 1.0
            rows.append({"user_id": f"u{user}", "channel": channel, "click": click, "cost": cost})
            before = channel
    return rows
