"""Tests that a log with other column names and units is read as its description says."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from features import messages
from features.ingest.ingest import validate_log
from mtorl.log.dataset import DatasetSpec, SpecError
from mtorl.log.touchpoints import LogError
from tests.features.shop_log import canonical
from tests.messages import raises

DESCRIPTION: dict[str, Any] = yaml.safe_load("""
{name: agency, channels: [search, social], propensity: channel-frequency, columns: {
    user_id: uid, timestamp: {column: shown_at, unit: s}, campaign_id: line_item, channel: slot, device: ua,
    cost: {column: cpm, per: 1000}, click: clicked, conversion: {value: 0}, revenue: profit},
context: [{name: device, kind: categorical}]}
""")
SPEC = DatasetSpec.from_dict(DESCRIPTION)


def log(**changes: list[Any]) -> pd.DataFrame:
    columns = {
        "uid": ["1", "1", "2"],
        "shown_at": ["1704067200", "1704070800.5", "1704067200"],
        "line_item": ["a", "b", "a"],
        "slot": ["search", "social", "search"],
        "cpm": ["2000", "0.5", "10"],
        "clicked": ["1", "0", "false"],
        "profit": ["3.5", "-1", "0"],
        "ua": ["phone", "tv", "tv"],
    }
    return pd.DataFrame({**columns, **changes})


def ingested(folder: Path, frame: pd.DataFrame, spec: DatasetSpec = SPEC, name: str = "log.csv") -> pd.DataFrame:
    path = folder / name
    frame.to_parquet(path) if name.endswith(".parquet") else frame.to_csv(path, index=False)
    return canonical(path, spec)[0]


def test_names_and_units_become_the_logs(tmp_path: Path) -> None:
    found = ingested(tmp_path, log())
    assert list(found) == list(SPEC.log_columns)
    assert found["timestamp"].astype(str).tolist() == [
        "2024-01-01 00:00:00+00:00",
        "2024-01-01 01:00:00.500000+00:00",
        "2024-01-01 00:00:00+00:00",
    ]
    assert found["cost"].tolist() == [2.0, 0.0005, 0.01]
    assert found[["click", "conversion"]].to_numpy().tolist() == [[1, 0], [0, 0], [0, 0]]
    assert found["device"].tolist() == ["phone", "tv", "tv"]


def test_units_of_typed_columns(tmp_path: Path) -> None:
    spec = SPEC.replace(columns={**SPEC.columns, "timestamp": {"column": "shown_at", "unit": "ms"}})
    typed = log(shown_at=[1704067200_000, 1704070800_000, 1704067201_000], cpm=[2000, 1, 10])
    found = ingested(tmp_path, typed.astype({"profit": float}), spec, "log.parquet")
    assert found["timestamp"].dt.hour.tolist() == [0, 1, 0]
    assert found["cost"].tolist() == [2.0, 0.001, 0.01]


def test_times_without_a_zone_get_the_descriptions_zone(tmp_path: Path) -> None:
    spec = SPEC.replace(columns={**SPEC.columns, "timestamp": {"column": "shown_at", "timezone": "America/New_York"}})
    texts = ["2024-01-31 12:00:00", "2024-07-31T12:00:00.5", "2024-01-31T12:00:00+01:00"]  # winter, summer, own zone
    found = ingested(tmp_path, log(shown_at=texts), spec)
    assert found["timestamp"].dt.hour.tolist() == [17, 16, 11]
    texts = ["2024-01-31 12:00:00 PST", "2024-01-31 12:00:00 UTC", "2024-07-31 12:00:00 Europe/Berlin"]
    assert ingested(tmp_path, log(shown_at=texts), spec)["timestamp"].dt.hour.tolist() == [12, 20, 10]
    typed = log(shown_at=pd.to_datetime(["2024-01-31 12:00", "2024-07-31 12:00", "2024-01-31 06:00"]), cpm=[1, 1, 1])
    assert ingested(tmp_path, typed, spec, "log.parquet")["timestamp"].dt.hour.tolist() == [17, 16, 11]
    log(shown_at=["soon", *texts[1:]]).to_csv(tmp_path / "log.csv", index=False)
    (fault,) = validate_log(tmp_path / "log.csv", spec).faults
    assert (fault.rule, fault.column, fault.example) == ("unparsable_timestamp", "shown_at", "'soon'")


def test_faults_and_missing_columns_have_the_names_of_the_file(tmp_path: Path) -> None:
    log(shown_at=["1704067200", "soon", "1"], cpm=["x", "1", "-1"]).to_csv(tmp_path / "log.csv", index=False)
    faults = validate_log(tmp_path / "log.csv", SPEC).faults
    assert {(fault.rule, fault.column, fault.example, fault.row) for fault in faults} == {
        ("unparsable_timestamp", "shown_at", "'soon'", 2),
        ("not_a_number", "cpm", "'x'", 1),
        ("negative_cost", "cpm", "'-1'", 3),
    }
    with raises(LogError, messages.MISSING_COLUMNS, missing=["uid"]):
        ingested(tmp_path, log().rename(columns={"uid": "user"}))
    with pytest.raises(LogError, match=r"columns: \{user_id: NAME\}"):
        ingested(tmp_path, log(), SPEC.replace(columns={}))


@pytest.mark.parametrize(
    "columns",
    [
        {"user": "uid"},
        {"user_id": {"value": "1"}},
        {"campaign_id": {"value": 1}},
        *({"cost": cost} for cost in ({}, {"column": "c", "per": 0}, {"column": "c", "unit": "s"})),
        *({"cost": {"value": value}} for value in ("free", [1], float("nan"))),
        {"cost": {"column": "c", "timezone": "UTC"}},
        *({"timestamp": {"column": "c", **how}} for how in ({"timezone": "Mars"}, {"timezone": "UTC", "unit": "s"})),
        *({"timestamp": {"column": "c", "format": form}} for form in ("%d.%m.", "%d.%Q.%Y")),
        {"timestamp": {"column": "c", "format": "%d.%m.%Y", "unit": "s"}},
        {"channel": {"column": "c", "per": 10}},
    ],
    ids=str,
)
def test_an_invalid_column_mapping_is_refused(columns: dict[str, Any]) -> None:
    (name,) = columns
    with pytest.raises(SpecError, match=rf"columns(: |\.).*{name}"):
        DatasetSpec.from_dict({**DESCRIPTION, "columns": columns})


def test_all_faults_of_a_description_are_reported_together() -> None:
    faulty = {**DESCRIPTION, "colour": "red", "window": 0, "columns": {"cost": {"column": "c", "unit": "weeks"}}}
    del faulty["channels"]
    with pytest.raises(SpecError) as caught:
        DatasetSpec.from_dict(faulty)
    assert {(fault.code, fault.values["at"]) for fault in caught.value.args[0].values["faults"]} == {
        *(("unknown-field", ""), ("missing", "channels")),
        *(("greater-than-equal", "window"), ("literal-error", "columns.cost.unit")),
    }
