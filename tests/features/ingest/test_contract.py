"""Test that the data contract finds the same faults as a slow reference, on random logs."""

import math
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from features import messages
from features.ingest import contract
from features.ingest.ingest import BadRowsError, ingest_log
from tests.features.shop_log import SPEC as SHOP
from tests.messages import raises
from tests.repository import ROOT

SPEC = SHOP.replace(
    propensity="logged",
    static=(SHOP.static[0].replace(missing="unknown"), SHOP.static[1]),
    outcomes=(SHOP.outcomes[0].replace(missing="unknown"),),
)
NUMBERS = ("cost", "click", "conversion", "revenue", "propensity", "hour", "tenure", "viewed")
BLANK = ("", " ", "NA", "nan")

often = {
    "user_id": ["a", "b", "c"],
    "timestamp": [
        *("2024-05-01T10:00:00Z", "2024-05-01 10:00:00", "2024-05-01T10:00:00.000001Z"),
        *("2024-05-01T10:00:00.000002Z", "2024-05-02"),
    ],
    "campaign_id": ["x", "y"],
    "channel": ["search", "social"],
    "cost": ["0", "1.5"],
    "click": ["0", "1"],
    "conversion": ["0", "1.0"],
    "revenue": ["0", "1e3"],
    "propensity": ["0.5", "1"],
    "device": ["mobile", "", "NA"],
    "hour": ["1", " 2 "],
    "age": ["old", "old", "old", "", "young"],
    "tenure": ["7", "7", "7", "0", ""],
    "viewed": ["0.5", "", "NA"],
}
rarely = {
    "user_id": ["", " "],
    "timestamp": ["", "soon", "17", "infinity", "1500-01-01"],
    "campaign_id": [""],
    "channel": ["", "tv"],
    "cost": ["", "-1", "x", "inf", "NA"],
    "click": ["", "2", "x"],
    "conversion": ["0.5", "nan"],
    "revenue": ["x", "-inf"],
    "propensity": ["", "0", "-1", "1.5", "x"],
    "device": ["  "],
    "hour": ["", "noon"],
    "age": ["  "],
    "tenure": ["x"],
    "viewed": ["much"],
}


def cells(name: str) -> st.SearchStrategy[str]:
    return st.integers(0, 19).flatmap(lambda n: st.sampled_from(rarely[name] if n == 0 else often[name]))


logs = st.lists(st.fixed_dictionaries({name: cells(name) for name in SPEC.log_columns}), min_size=1, max_size=30)


def finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def instant(text: str) -> int | None:
    if not text.strip()[:4].isdigit() or text.strip().isdigit():
        return None
    time = pd.Timestamp(text.strip())
    time = time.tz_localize("UTC") if time.tz is None else time
    return int(time.timestamp()) * 10**6 + time.microsecond if 1900 <= time.year < 2200 else None


def first_broken(name: str, text: str) -> str | None:
    missing = text in BLANK if name in NUMBERS else not text.strip()
    lenient = {c.name for c in (*SPEC.context, *SPEC.static, *SPEC.outcomes) if c.missing != "error"}
    if name == "timestamp":
        return None if instant(text) is not None else "unparsable_timestamp"
    if missing:
        return None if name in lenient else "missing_value"
    if name in NUMBERS and finite(text) is None:
        return "not_a_number"
    bad = {
        "unknown_channel": name == "channel" and text not in SPEC.channels,
        "negative_cost": name == "cost" and float(text) < 0,
        "huge_cost": name == "cost" and float(text) > 1e15,
        "not_binary": name in ("click", "conversion") and float(text) not in (0, 1),
        "propensity_out_of_range": name == "propensity" and not 0 < float(text) <= 1,
    }
    return next((rule for rule, broken in bad.items() if broken), None)


def reference(rows: list[dict[str, str]]) -> tuple[dict[int, set[str]], list[tuple[str, int, int]], int]:
    """Return the expected faults by row number, the valid rows, and the number of rows whose time is moved.

    A valid row is a tuple of the user, the time in microseconds and the row number.
    """
    faults: dict[int, set[str]] = {}
    for number, row in enumerate(rows, 1):
        for name in SPEC.log_columns:
            if rule := first_broken(name, row[name]):
                faults.setdefault(number, set()).add(f"{rule} ({name})")

    seen = set()
    for number, row in enumerate(rows, 1):
        if number not in faults:
            key = (row["user_id"], instant(row["timestamp"]), row["campaign_id"], row["channel"])
            if key in seen:
                faults[number] = {"duplicate_touchpoint (timestamp)"}
            seen.add(key)

    changed: dict[int, set[str]] = {}
    for name in ("age", "tenure"):
        first: dict[str, object] = {}
        for number, row in enumerate(rows, 1):
            value = (finite(row[name]) or 0.0) if name == "tenure" else row[name].strip()
            if number not in faults and value != "" and first.setdefault(row["user_id"], value) != value:
                changed.setdefault(number, set()).add(f"changing_static ({name})")
    faults |= changed

    users = [row["user_id"] for number, row in enumerate(rows, 1) if number not in faults]
    for number, row in enumerate(rows, 1):
        if number not in faults and users.count(row["user_id"]) < SPEC.min_touchpoints:
            faults[number] = {"single_touchpoint (user_id)"}

    good, moved = [], 0
    order = [(row["user_id"], instant(row["timestamp"]), n) for n, row in enumerate(rows, 1) if n not in faults]
    for user, time, number in sorted(order):
        after = good[-1][1] + 1 if good and good[-1][0] == user else time
        good.append((user, max(time, after), number))
        moved += max(time, after) != time
    return faults, good, moved


@pytest.mark.long
@settings(max_examples=30)
@given(logs)
def test_validation_agrees_with_a_slow_reference(rows):
    faults, good, moved = reference(rows)
    assume(not good or any(float(rows[number - 1]["cost"]) > 0 for *_, number in good))  # otherwise refused
    with tempfile.TemporaryDirectory() as folder:
        path, out, side = (Path(folder) / name for name in ("log.csv", "log.parquet", "quarantine.csv"))
        frame = pd.DataFrame(rows)
        frame.to_csv(path, index=False)
        if not good:
            with raises(BadRowsError, messages.NO_GOOD_ROW):
                ingest_log(path, SPEC, out, side, "quarantine")
            return
        report = ingest_log(path, SPEC, out, side, "quarantine")
        log = pd.read_parquet(out)
        bad = pd.read_csv(side, dtype=str, keep_default_na=False) if faults else pd.DataFrame({"row": [], "fault": []})

    assert {int(row): set(words.split("; ")) for row, words in zip(bad["row"], bad["fault"], strict=True)} == faults
    assert list(zip(log["user_id"], log["timestamp"].astype("int64"), strict=True)) == [(u, t) for u, t, _ in good]
    assert log["campaign_id"].tolist() == [rows[n - 1]["campaign_id"] for *_, n in good]
    assert log["tenure"].tolist() == [finite(rows[n - 1]["tenure"]) or 0.0 for *_, n in good]
    assert (report.rows, report.quarantined, report.moved_ties) == (len(good), len(faults), moved)
    assert report.rows + report.quarantined == len(rows) and report.users == len({u for u, *_ in good})
    count = pd.Series([fault for words in faults.values() for fault in words]).value_counts().to_dict()
    assert {f"{f.rule} ({f.column})": f.count for f in report.faults} == count
    for fault in report.faults:
        first = min(n for n, words in faults.items() if f"{fault.rule} ({fault.column})" in words)
        assert fault.row == first
        value = rows[first - 1][fault.column]
        assert fault.example == ("" if fault.rule == "missing_value" or not value else repr(value))


def test_every_rule_has_the_documented_message():
    stages = contract.stages(SPEC.replace(immediate=("cost",), timed=("click",)), SPEC.optional_columns)
    assert all(len(dict(stage.rules())) == len(stage.rules()) for stage in stages), "a column is listed twice"
    rules = {rule.fault for stage in stages for rule in stage.checked}
    assert rules == set(contract.MEANING)
    page = (ROOT / "docs" / "faulty-rows.md").read_text()
    assert all(f"`{rule}`" in page for rule in rules)
