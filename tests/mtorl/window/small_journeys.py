"""Builds windows of small journeys in two ways: offline from a sorted log, and online from a stored history.

Both ways must give equal windows.
"""

import json
from typing import Any

import pyarrow as pa
import yaml
from hypothesis import strategies as st

from mtorl.log.dataset import DatasetSpec
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch, history_columns, instance_from_history

Row = dict[str, Any]

HOUR = 3_600_000_000  # us
GAP = 24 * HOUR

DESCRIPTION = """
{name: tiny, channels: [search, social], segment: age, propensity: logged, window: 3, journey_gap_days: 1.0,
context: [{name: hour, kind: numeric, missing: unknown}, {name: device, kind: categorical, missing: unknown}],
static: [{name: age, kind: categorical, missing: unknown}, {name: tenure, kind: numeric, missing: unknown}],
reward: {gain: click, cost_weight: 0.5}}
"""
SPEC = DatasetSpec.from_dict(yaml.safe_load(DESCRIPTION))

TIMED = SPEC.replace(timed=("conversion", "revenue"))
"""The same, where the log says when conversions and revenue became known."""

number = st.floats(-1e6, 1e6, allow_nan=False, width=32)
content = {
    "channel": st.sampled_from(SPEC.channels),
    "click": st.integers(0, 1),
    "conversion": st.integers(0, 1),
    "revenue": number,
    "cost": st.floats(0, 10),
    "hour": st.none() | number,
    "device": st.none() | st.sampled_from(["mobile", "desktop", "Tab\u00e9l"]),
}
touchpoint = st.fixed_dictionaries(
    {
        **content,
        # The time since the previous touchpoint, and the delay of the record.
        "pause": st.sampled_from([1, HOUR, 2 * HOUR, GAP - 1, GAP, GAP + 1, 3 * GAP]),
        "late": st.sampled_from([None, None, 0, 1, HOUR, 2 * HOUR, 3 * HOUR, GAP, GAP + HOUR, 9 * GAP]),
        # The time from a touchpoint until its outcome is known; None if it is not logged.
        "conversion_after": st.sampled_from([None, 0, 1, HOUR - 1, HOUR, HOUR + 1, GAP, 9 * GAP]),
        "revenue_after": st.sampled_from([None, 0, 2 * HOUR, 9 * GAP]),
    }
)
static = st.fixed_dictionaries({"age": st.none() | st.sampled_from(["18-24", "65+"]), "tenure": st.none() | number})
journey = st.tuples(static, st.lists(touchpoint, min_size=1, max_size=9))


def log_of(journeys: list[tuple[Row, list[Row]]]) -> list[Row]:
    """Return a sorted log with one user per journey, in microseconds; `known` is the time of recording."""
    rows = []
    for user, (features, seen) in enumerate(journeys):
        at = 1_700_000_000_000_000
        for now in seen:
            at += now.get("pause", HOUR)
            late = now.get("late")
            created = None if late is None else at + late
            times = {"timestamp": at, "created_timestamp": created, "known": created or at}
            for name in TIMED.timed:
                after = now.get(f"{name}_after")
                times[f"{name}_time"] = None if after is None else at + after
            rows.append({**features, **now, "user_id": f"u{user}", **times})
    return rows


def steps_of(rows: list[Row], spec: DatasetSpec = SPEC) -> pa.Table:
    time = pa.timestamp("us", tz="UTC")
    kinds = {"user_id": pa.string(), "timestamp": time, "created_timestamp": time, "channel": pa.string()}
    kinds |= dict.fromkeys(spec.window_outcomes, pa.float64()) | dict.fromkeys(spec.outcome_times.values(), time)
    for column in (*SPEC.context, *SPEC.static, *spec.feature_columns):
        kinds[column.name] = pa.float64() if column.kind == "numeric" else pa.string()
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()})


def offline(rows: list[Row], targets: bool = False, spec: DatasetSpec = SPEC) -> WindowBatch:
    return WindowBatch.from_steps(steps_of(rows, spec), None, spec, targets)


def stored(rows: list[Row], now: Row, spec: DatasetSpec = SPEC) -> dict[str, list[Any]]:
    """Return a user's stored history just before a touchpoint, with nulls as in the store."""
    known = [row for row in rows if row["user_id"] == now["user_id"] and row["known"] < now["timestamp"]]
    null = {"hour": float("nan"), "device": "", **dict.fromkeys(spec.outcome_times.values(), float("nan"))}
    names = ("timestamp", *(name.removeprefix("hist_") for name in history_columns(spec)))
    return {f"hist_{name}": [null[name] if row[name] is None else row[name] for row in known] for name in names}


def online(rows: list[Row], whole: list[Row] | None = None, spec: DatasetSpec = SPEC) -> WindowBatch:
    histories = [stored(whole or rows, row, spec) for row in rows]
    instances = [
        instance_from_history(history, row, row, spec, row["timestamp"], row.get("stored"))
        for history, row in zip(histories, rows, strict=True)
    ]
    return WindowBatch.from_instances(json.loads(json.dumps(instances)), spec)


def touchpoints(count: int, **changes: Any) -> list[Row]:
    base = {"channel": "search", "click": 0, "conversion": 0, "revenue": 0.0, "cost": 1.0, "device": "mobile"}
    return [{**base, "hour": float(i), **changes} for i in range(count)]


JOURNEY = ({"age": "18-24", "tenure": 10.0}, touchpoints(3))
FITTED = Encoder.fit(
    offline(log_of([JOURNEY, ({"age": "65+", "tenure": 9.5}, touchpoints(2, device="desktop"))]), True), SPEC
)


def same_inputs(first: WindowBatch, second: WindowBatch) -> bool:
    (a, a_length), (b, b_length) = FITTED.encode(first), FITTED.encode(second)
    return a.tobytes() == b.tobytes() and a_length.tolist() == b_length.tolist()
