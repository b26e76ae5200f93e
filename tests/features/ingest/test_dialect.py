"""Logs that are not written as usual: what is found, what is said, and that the canonical log is the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from features.ingest.draft import Draft, draft_description
from features.ingest.ingest import ingest_log, validate_log
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError

ROWS = 240
TIMES = pd.date_range("2024-10-05 09:00", periods=ROWS, freq="h")


def plain(**changes: Any) -> pd.DataFrame:
    numbers = pd.Series(range(ROWS))
    log = {
        "user": "u" + (numbers % 30).astype(str),
        "time": TIMES.strftime("%Y-%m-%d %H:%M"),
        "campaign": "spring",
        "channel": (numbers % 3).map({0: "ch01", 1: "ch02", 2: "ch03"}),
        "cost": (numbers % 7 + 0.25).astype(str),
        "click": (numbers % 5 == 0).astype(int),
        "distance": (numbers * 7.5).astype(str),
    }
    return pd.DataFrame(log | changes)


def comma(numbers: pd.Series) -> pd.Series:
    return numbers.str.replace(".", ",")


def described(path: Path, text: str) -> Draft:
    path.write_text(text, encoding="utf-8")
    return draft_description(path)


def canonical(path: Path, spec: DatasetSpec) -> pd.DataFrame:
    ingest_log(path, spec, path.with_suffix(".parquet"), path.with_suffix(".faulty"))
    return pd.read_parquet(path.with_suffix(".parquet"))


@pytest.mark.parametrize(
    ("separator", "decimal", "form"),
    [
        (";", ",", "%d.%m.%Y %H:%M"),
        ("\t", ".", "%m/%d/%Y %I:%M %p"),
        ("|", ".", "%Y%m%dT%H%M%S"),
        (",", ".", "%d %b %Y, %H:%M"),
    ],
)
def test_a_log_of_another_dialect_becomes_the_same_log(separator: str, decimal: str, form: str, tmp_path: Path) -> None:
    log = plain(time=TIMES.strftime(form))
    if decimal == ",":
        log = log.assign(cost=comma(log["cost"]), distance=comma(log["distance"]))
    found = described(tmp_path / "log.csv", log.to_csv(index=False, sep=separator))
    assert found.checks == ()
    assert found.spec.file.separator == (None if separator == "," else separator)
    assert (found.spec.file.decimal, found.spec.columns["timestamp"].format) == (decimal, form)
    usual = described(tmp_path / "usual.csv", plain().to_csv(index=False))
    assert "file" not in usual.spec.to_dict()
    same = canonical(tmp_path / "usual.csv", usual.spec)
    pd.testing.assert_frame_equal(canonical(tmp_path / "log.csv", found.spec), same)


def test_points_between_thousands_are_no_decimals(tmp_path: Path) -> None:
    log = plain(cost=["1.234,5", "1,5", "7", "0,25"] * (ROWS // 4))
    log = log.assign(distance=comma(log["distance"]))
    found = described(tmp_path / "log.csv", log.to_csv(index=False, sep=";"))
    assert canonical(tmp_path / "log.csv", found.spec)["cost"].max() == 1234.5
    log.loc[3, "cost"] = "1.5"
    (tmp_path / "log.csv").write_text(log.to_csv(index=False, sep=";"))
    (fault,) = validate_log(tmp_path / "log.csv", found.spec).faults
    assert (fault.rule, fault.column, fault.example, fault.row) == ("not_a_number", "cost", "'1.5'", 4)


@pytest.mark.parametrize(
    ("changes", "question"),
    [
        ({"cost": "1,250", "distance": range(ROWS)}, "file: "),
        ({"channel": ["CH01", "ch01", "ch02"] * (ROWS // 3)}, "channels: 'CH01' and 'ch01'"),
    ],
    ids=["decimal marks or thousands", "upper and lower case"],
)
def test_what_may_be_meant_otherwise_is_asked_about(changes: dict[str, Any], question: str, tmp_path: Path) -> None:
    (check,) = described(tmp_path / "log.csv", plain(**changes).to_csv(index=False)).checks
    assert check.startswith(question)


def test_a_day_that_may_be_a_month_is_asked_about(tmp_path: Path) -> None:
    minutes = [i % 9 * 24 * 60 + i for i in range(ROWS)]  # no day above 12
    first = pd.Timestamp("2024-10-01 09:00") + pd.to_timedelta(minutes, unit="min")
    found = described(tmp_path / "log.csv", plain(time=first.strftime("%d/%m/%Y %H:%M")).to_csv(index=False))
    (check,) = found.checks
    assert "%d/%m/%Y %H:%M and %m/%d/%Y %H:%M" in check
    answered = re.sub(r"(?m)^ *# CHECK.*\n", "", found.text).replace("%d/%m/%Y", "%m/%d/%Y")
    (tmp_path / "log.yaml").write_text(answered)
    log = canonical(tmp_path / "log.csv", DatasetSpec.load(tmp_path / "log.yaml"))
    assert {*log["timestamp"].dt.day} == {10} and log["timestamp"].dt.month.max() == 9


def test_outer_spaces_of_a_channel_are_none_of_it(tmp_path: Path) -> None:
    log = plain()
    log.loc[::4, "channel"] = " " + log.loc[::4, "channel"] + "\t "
    found = described(tmp_path / "log.csv", log.to_csv(index=False))
    assert found.spec.channels == ("ch01", "ch02", "ch03")
    counts = canonical(tmp_path / "log.csv", found.spec)["channel"].value_counts()
    assert counts.to_dict() == dict.fromkeys(found.spec.channels, ROWS // 3)


def test_the_hour_that_autumn_repeats_is_counted(tmp_path: Path) -> None:
    # 2024-10-27 02:30 in Berlin is twice; 01:30 and 03:30 are once. An offset says which one it is.
    at = ["2024-10-27 02:30", "2024-10-27 01:30", "2024-10-27 03:30", "2024-10-27T02:30:00+02:00"] * (ROWS // 4)
    spec = described(tmp_path / "log.csv", plain(time=at).to_csv(index=False)).spec
    assert validate_log(tmp_path / "log.csv", spec).warnings == ()
    spec = spec.replace(columns={**spec.columns, "timestamp": {"column": "time", "timezone": "Europe/Berlin"}})
    (warning,) = validate_log(tmp_path / "log.csv", spec).warnings
    assert warning.startswith("column 'time': 60 rows are in an hour that clocks of Europe/Berlin show twice")


# ---- JSON lines


def nested(row: Any) -> dict[str, Any]:
    """A row of `plain` as a platform might send it."""
    return {
        "user": {"id": row.user},
        "time": row.time.replace(" ", "T") + ":00Z",
        "campaign": row.campaign,
        "ad": {"channel": row.channel, "cost": float(row.cost), "tags": ["a", "b"], "x.y": row.Index % 90},
        "result": {"click": bool(row.click)} if row.click else None,
        "distance": float(row.distance),
    }


@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson"])
def test_nested_json_is_a_log_by_the_paths_of_its_fields(name: str, tmp_path: Path) -> None:
    lines = [json.dumps(nested(row)) for row in plain().itertuples()]
    found = described(tmp_path / name, "\n".join(lines) + "\n")
    sources = {name: source.column for name, source in found.spec.columns.items() if source.column}
    keys = {"user_id": "user.id", "timestamp": "time", "campaign_id": "campaign", "channel": "ad.channel"}
    assert sources == {**keys, "cost": "ad.cost", "ad_x_y": "ad.x.y", "click": "result.click"}
    assert [column.name for column in found.spec.context] == ["ad_x_y", "distance"]
    faults = validate_log(tmp_path / name, found.spec).faults
    assert [(fault.rule, fault.column, fault.count) for fault in faults] == [("missing_value", "result.click", 192)]
    lines = [line.replace('"result": null', '"result": {"click": false}') for line in lines]
    (tmp_path / name).write_text("\n".join(lines))
    usual = described(tmp_path / "usual.csv", plain().to_csv(index=False))
    own, same = canonical(tmp_path / name, found.spec), canonical(tmp_path / "usual.csv", usual.spec)
    pd.testing.assert_frame_equal(own[same.columns], same)


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a":\n', "[1, 2]\n", "7\n", "\n{}\n", "\n\n"])
def test_what_is_not_json_lines_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(LogError):
        described(tmp_path / "log.jsonl", text)


def test_a_second_file_has_a_dialect_of_its_own(tmp_path: Path) -> None:
    log = plain()
    (tmp_path / "log.csv").write_text(log.to_csv(index=False))
    later = (TIMES[::4] + pd.Timedelta("1h")).strftime("%d.%m.%Y %H:%M")
    orders = {"user": log["user"][::4], "time": later, "amount": "2,5", "order no": range(ROWS // 4)}
    pd.DataFrame(orders).to_csv(tmp_path / "orders.csv", index=False, sep=";")
    found = draft_description(tmp_path / "log.csv", conversions=tmp_path / "orders.csv", told="orders.csv")
    (tmp_path / "log.yaml").write_text(found.text)
    spec = DatasetSpec.load(tmp_path / "log.yaml")
    assert spec.conversions is not None and spec.conversions.file.model_dump() == {"separator": ";", "decimal": ","}
    assert spec.conversions.columns["timestamp"].format == "%d.%m.%Y %H:%M"
    assert "file" not in spec.to_dict() and "file" in spec.to_dict()["conversions"]
    assert canonical(tmp_path / "log.csv", spec)["revenue"].sum() == pytest.approx(2.5 * ROWS // 4)
