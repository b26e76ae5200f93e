"""Tests that a drafted description can be loaded, fits its log, and asks what is uncertain."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from features import messages
from features.ingest.draft import draft_description
from features.ingest.ingest import IngestReport, validate_log
from mtorl.log.dataset import DatasetSpec, SpecError
from mtorl.log.messages import OPEN_CHECKS
from mtorl.log.touchpoints import LogError
from mtorl.simulator.raw_log import write_raw_log
from mtorl.simulator.simulator import SimulatorConfig
from tests.features.shop_log import canonical
from tests.messages import assert_says, raises

ROWS = 600


def foreign(**changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(3)
    user = random.integers(0, 60, ROWS)
    return {
        "uid": [f"u{u}" for u in user],
        "shown_at": 1_704_067_200 + np.arange(ROWS) * 60,
        "line_item": random.choice(["a", "b"], ROWS),
        "slot": random.choice(["search", "social", "video"], ROWS),
        "price_paid": random.random(ROWS).round(3),
        "clicked": random.integers(0, 2, ROWS),
        "profit": random.normal(0, 1, ROWS).round(2),
        "hour": random.integers(0, 24, ROWS),
        "os": random.choice(["ios", "android", ""], ROWS),
        "tier": random.integers(1, 4, ROWS),
        "age": np.array(["young", "old"])[user % 2],
        "dwell_seconds": random.random(ROWS).round(2),
        "country": ["de"] * ROWS,
        "request": [f"{i:x}" for i in range(ROWS)],
        "query text": random.choice(["x", "y"], ROWS),
        **changes,
    }


class Drafted:
    """A drafted description, with all questions answered with yes."""

    def __init__(self, path: Path, **named: str) -> None:
        self.path, self.text = path, draft_description(path, named)
        self.checks = dict(re.findall(r"(?m)^ *# CHECK (\w+): (.*)$", self.text))
        self.spec = DatasetSpec.from_dict(yaml.safe_load(self.text))
        self.sources = {name: source.column or source.value for name, source in self.spec.columns.items()}

    def canonical(self, spec: DatasetSpec | None = None) -> tuple[pd.DataFrame, IngestReport]:
        return canonical(self.path, spec or self.spec)


def draft(folder: Path, columns: dict[str, Any], name: str = "my.log.csv", **named: str) -> Drafted:
    frame = pd.DataFrame(columns)
    frame.to_parquet(folder / name) if name.endswith(".parquet") else frame.to_csv(folder / name, index=False)
    return Drafted(folder / name, **named)


def test_a_foreign_log_is_described_and_fits_its_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.ingest.draft._MOST_CATEGORIES", 100)
    found = draft(tmp_path, foreign())
    spec = found.spec
    assert (spec.name, spec.channels, spec.propensity) == ("my", ("search", "social", "video"), "channel-frequency")
    assert found.sources == {
        **{"user_id": "uid", "timestamp": "shown_at", "campaign_id": "line_item", "channel": "slot"},
        **{"cost": "price_paid", "click": "clicked", "conversion": 0.0, "revenue": "profit"},
        "query_text": "query text",
    }
    codes = ("categorical", "error")
    kinds = {"hour": ("numeric", "error"), "os": ("categorical", "unknown"), "tier": codes, "query_text": codes}
    assert {c.name: (c.kind, c.missing) for c in spec.context} == kinds
    assert [c.name for c in spec.static] == ["age"] and spec.segment == "age"
    assert [c.name for c in spec.outcomes] == ["dwell_seconds"]
    left_out = [line for line in found.text.splitlines() if line.startswith("# left out")]
    assert [line.split(": ")[1] for line in left_out] == ["country", "request"]
    assert "# NOTE propensity:" in found.text and not found.checks
    (tmp_path / "my.yaml").write_text(found.text)
    report = validate_log(found.path, DatasetSpec.load(tmp_path / "my.yaml"))
    assert (report.rows, report.quarantined) == (ROWS, 0)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
def test_units_of_time_are_recognised_by_size(tmp_path: Path, unit: str, factor: int) -> None:
    columns = {name: values for name, values in foreign().items() if name in ("uid", "slot", "shown_at")}
    # The column's name says nothing, but no other column contains times.
    columns["when"] = columns.pop("shown_at") * factor
    time = draft(tmp_path, columns).spec.columns["timestamp"]
    assert (time.column, time.unit) == ("when", unit)


def test_typed_times_and_logged_propensities(tmp_path: Path) -> None:
    times = pd.date_range("2024-01-01", periods=ROWS, freq="min", tz="Europe/Berlin")
    found = draft(tmp_path, foreign(shown_at=times, propensity=[0.5] * ROWS), "log.parquet")
    assert (found.spec.propensity, found.checks) == ("logged", {})
    assert validate_log(found.path, found.spec).quarantined == 0


def test_a_column_named_by_the_caller_is_used(tmp_path: Path) -> None:
    found = draft(tmp_path, foreign(), channel="os", cost="tier")
    assert (found.sources["channel"], found.sources["cost"]) == ("os", "tier")
    for named in ({"channel": "medium"}, {"user": "uid"}, {"channel": "request"}):
        with pytest.raises(LogError):
            draft(tmp_path, foreign(), **named)


def test_roles_that_are_not_found_are_questions(tmp_path: Path) -> None:
    columns = foreign()
    columns["who"], columns["what"] = columns.pop("uid"), columns.pop("slot")
    with raises(LogError, messages.UNCLEAR_COLUMNS, roles=["user_id", "channel"]):
        draft(tmp_path, columns)


def test_a_built_in_log_is_recognised_and_a_canonical_one_needs_no_names(tmp_path: Path) -> None:
    write_raw_log(tmp_path / "s.csv", SimulatorConfig(users=40))
    with raises(LogError, messages.NO_DESCRIPTION_NEEDED, dataset="simulator"):
        draft_description(tmp_path / "s.csv")
    found = Drafted(tmp_path / "s.csv", channel="channel")
    assert not {name for name, source in found.sources.items() if source != name}
    assert validate_log(found.path, found.spec).quarantined == 0


def test_a_very_rare_value_is_no_channel(tmp_path: Path) -> None:
    columns = foreign()
    slots = ["seach", *["audio", " audio\t"] * 5, *columns["slot"][11:]]
    found = draft(tmp_path, columns | {"slot": slots})
    assert found.spec.channels == ("audio", "search", "social", "video")
    assert re.search(r"# NOTE channels: .* 'seach' \(1\)", found.text)
    (fault,) = validate_log(found.path, found.spec).faults
    assert (fault.rule, fault.count) == ("unknown_channel", 1)
    alone = {**columns, "slot": ["a"] * (ROWS - 1) + ["b"]}  # the only other value
    assert draft(tmp_path, alone, channel="slot").spec.channels == ("a", "b")


@pytest.mark.parametrize("words", ["TRUE FALSE", "yes no", "t f"])
def test_outcomes_in_words_are_recognised_and_read(tmp_path: Path, words: str) -> None:
    happened = np.arange(ROWS) % 3 == 0
    told = np.where(happened, *words.split())
    found = draft(tmp_path, foreign(clicked=told, liked=told))
    assert found.sources["click"] == "clicked" and found.spec.reward.gain.plain == "click"
    assert "liked" in [column.name for column in found.spec.outcomes]
    log, report = found.canonical()
    log = log.sort_values("timestamp")
    assert (report.rows, report.faults) == (ROWS, ())
    assert (log["click"] == happened).all() and (log["liked"] == happened).all()


def test_a_column_that_determines_an_outcome_is_an_outcome(tmp_path: Path) -> None:
    columns = foreign()
    click = columns.pop("clicked")
    del columns["profit"], columns["dwell_seconds"]
    columns |= {"geklickt": click, "Umsatz (€)": click * np.arange(1, ROWS + 1), "CTR": click / 4}
    assert {*draft(tmp_path, columns).checks} == {"click"}, "no column is an outcome by its name"
    found = draft(tmp_path, columns, click="geklickt")
    assert [c.name for c in found.spec.outcomes] == ["Umsatz", "CTR"] and not found.checks


def test_every_name_of_a_column_can_be_read(tmp_path: Path) -> None:
    names = ["Gerät", "geraet-typ", "geraet typ", "2nd", "step", "a'b\"c", "hist_x"]
    random = np.random.default_rng(1)
    found = draft(tmp_path, foreign() | {name: random.random(ROWS).round(4) for name in names})
    called = {column: name for name, column in found.sources.items()}
    plain = ["Gerat", "geraet_typ", "geraet_typ_2", "log_2nd", "log_step", "a_b_c", "log_hist_x"]
    assert [called[name] for name in names] == plain
    log = found.canonical()[0].sort_values("timestamp", ignore_index=True)
    raw = pd.read_csv(found.path)
    assert all(log[called[name]].tolist() == raw[name].tolist() for name in names)


@pytest.mark.parametrize(("name", "per"), [("Cost (micros)", 1_000_000), ("cost cents", 100), ("eCPM", 1000)])
def test_an_amount_in_another_unit_is_recognised_by_its_name(name: str, per: int, tmp_path: Path) -> None:
    columns = {name: values for name, values in foreign().items() if name in ("uid", "slot", "shown_at", "price_paid")}
    columns[name] = columns.pop("price_paid") * per
    cost = draft(tmp_path, columns).spec.columns["cost"]
    assert (cost.column, cost.per) == (name, per)


def test_marks_of_missing_numbers_are_no_text_and_ids_no_context(tmp_path: Path) -> None:
    numbers = np.arange(ROWS)
    score = np.where(numbers % 9 == 0, "NA", (numbers % 50 * 0.5).astype(str))
    clicked = pd.Series(1_704_067_200 + numbers * 60).where(numbers % 2 == 0)  # some rows only, so not the exposure's
    found = draft(tmp_path, {"": numbers, "click_ts": clicked, "score": score} | foreign())
    kinds = {column.name: (column.kind, column.missing) for column in found.spec.context}
    assert kinds["score"] == ("numeric", "unknown")
    assert found.sources["timestamp"] == "shown_at"
    assert not {"Unnamed_0", "click_ts"} & {*kinds, *(column.name for column in found.spec.outcomes)}


# ---- questions about unlikely roles


def bandit(**changes: Any) -> dict[str, Any]:
    """Return a log of a uniformly random policy over twelve items, without a user column."""
    random = np.random.default_rng(8)
    log = {
        "row": np.arange(ROWS),
        "timestamp": [f"{at:%Y-%m-%d %H:%M:%S}" for at in pd.date_range("2024-01-01", periods=ROWS, freq="min")],
        "item_id": random.integers(0, 12, ROWS),
        "position": random.integers(1, 4, ROWS),
        "click": random.integers(0, 2, ROWS),
        "propensity_score": [1 / 12] * ROWS,
        "user_feature_0": random.choice(["a", "b", "c"], ROWS),
    }
    return {**log, **changes}


def test_an_unlikely_user_and_the_channel_of_a_propensity_are_questions(tmp_path: Path) -> None:
    found = draft(tmp_path, bandit(), "log.csv")
    assert {*found.checks} == {"user_id", "propensity"}
    (tmp_path / "log.yaml").write_text(found.text)
    with raises(SpecError, OPEN_CHECKS, count=2):
        DatasetSpec.load(tmp_path / "log.yaml")
    answered = draft(tmp_path, bandit(), "log.csv", user_id="row", channel="item_id")
    assert answered.checks == {} and len(answered.spec.channels) == 12
    assert validate_log(answered.path, answered.spec).quarantined == 0


@pytest.mark.parametrize(
    ("role", "value", "rest"),
    [
        ("cost", "€1,234.50", 1),
        ("cost", -1.5, 1),
        ("click", "ja", 0),
        ("revenue", "3 EUR", 0),
        ("propensity", 33, None),
    ],
)
def test_a_column_with_a_known_name_and_unlikely_values_is_a_question(
    role: str, value: Any, rest: int | None, tmp_path: Path
) -> None:
    columns = foreign(**{role: [value] * ROWS})
    for other in {"cost": ["price_paid"], "click": ["clicked"], "revenue": ["profit"]}.get(role, []):
        del columns[other]
    found = draft(tmp_path, columns | {"conversion": columns["tier"] == 1})
    assert {*found.checks} == {role}
    assert role not in {column.name.removeprefix("log_") for column in (*found.spec.context, *found.spec.static)}
    assert found.sources.get(role) == rest


# ---- logs in unusual formats

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


def written(path: Path, log: pd.DataFrame, sep: str = ",") -> Drafted:
    log.to_csv(path, index=False, sep=sep)
    return Drafted(path)


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
    for name in ("cost", "distance"):
        log[name] = log[name].str.replace(".", decimal)
    found = written(tmp_path / "log.csv", log, separator)
    assert found.checks == {}
    assert found.spec.file.separator == (None if separator == "," else separator)
    assert (found.spec.file.decimal, found.spec.columns["timestamp"].format) == (decimal, form)
    usual = written(tmp_path / "usual.csv", plain())
    assert "file" not in usual.spec.to_dict()
    pd.testing.assert_frame_equal(found.canonical()[0], usual.canonical()[0])


def test_points_between_thousands_are_no_decimals(tmp_path: Path) -> None:
    log = plain(cost=["1.234,5", "1,5", "7", "0,25"] * (ROWS // 4))
    log["distance"] = log["distance"].str.replace(".", ",")
    found = written(tmp_path / "log.csv", log, ";")
    assert found.canonical()[0]["cost"].max() == 1234.5
    log.loc[3, "cost"] = "1.5"
    log.to_csv(found.path, index=False, sep=";")
    (fault,) = validate_log(found.path, found.spec).faults
    assert (fault.rule, fault.column, fault.example, fault.row) == ("not_a_number", "cost", "'1.5'", 4)
    assert "decimal: '.'" in fault.hint


def test_commas_that_may_group_thousands_and_days_that_may_be_months_are_questions(tmp_path: Path) -> None:
    assert {*written(tmp_path / "log.csv", plain(cost="1,250")).checks} == {"file"}
    minutes = [i % 9 * 24 * 60 + i for i in range(ROWS)]  # no day of the month above 12
    first = pd.Timestamp("2024-10-01 09:00") + pd.to_timedelta(minutes, unit="min")
    found = written(tmp_path / "log.csv", plain(time=first.strftime("%d/%m/%Y %H:%M")))
    assert {*re.findall(r"%\S+/%Y", found.checks["timestamp"])} == {"%d/%m/%Y", "%m/%d/%Y"}
    answered = re.sub(r"(?m)^ *# CHECK.*\n", "", found.text).replace("%d/%m/%Y", "%m/%d/%Y")
    log, _ = found.canonical(DatasetSpec.from_dict(yaml.safe_load(answered)))
    assert {*log["timestamp"].dt.day} == {10} and log["timestamp"].dt.month.max() == 9


def test_times_in_the_repeated_hour_of_autumn_are_counted(tmp_path: Path) -> None:
    # In Berlin, 2024-10-27 02:30 occurs twice, so only a UTC offset makes it unambiguous.
    at = ["2024-10-27 02:30", "2024-10-27 01:30", "2024-10-27 03:30", "2024-10-27T02:30:00+02:00"] * (ROWS // 4)
    found = written(tmp_path / "log.csv", plain(time=at))
    assert validate_log(found.path, found.spec).warnings == ()
    zone = {"column": "time", "timezone": "Europe/Berlin"}
    (warning,) = validate_log(
        found.path, found.spec.replace(columns={**found.spec.columns, "timestamp": zone})
    ).warnings
    assert_says(warning, messages.REPEATED_HOUR, column="time", rows=150, zone="Europe/Berlin")


# ---- JSON lines


def nested(row: Any) -> dict[str, Any]:
    return {
        "user": {"id": row.user},
        "time": row.time.replace(" ", "T") + ":00Z",
        "campaign": row.campaign,
        "ad": {"channel": row.channel, "cost": float(row.cost), "tags": ["a", "b"], "x.y": row.Index % 97},
        "result": {"click": bool(row.click)} if row.click else None,
        "distance": float(row.distance),
    }


def test_nested_json_is_a_log_by_the_paths_of_its_fields(tmp_path: Path) -> None:
    lines = [json.dumps(nested(row)) for row in plain().itertuples()]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    found = Drafted(tmp_path / "log.jsonl")
    keys = {"user_id": "user.id", "timestamp": "time", "campaign_id": "campaign", "channel": "ad.channel"}
    absent = {"conversion": 0.0, "revenue": 0.0}
    assert found.sources == {**keys, "cost": "ad.cost", "ad_x_y": "ad.x.y", "click": "result.click", **absent}
    assert [column.name for column in found.spec.context] == ["ad_x_y", "distance"]
    faults = validate_log(found.path, found.spec).faults
    missing = ROWS * 4 // 5
    assert [(fault.rule, fault.column, fault.count) for fault in faults] == [("missing_value", "result.click", missing)]
    lines = [line.replace('"result": null', '"result": {"click": false}') for line in lines]
    found.path.write_text("\n".join(lines))
    same, _ = written(tmp_path / "usual.csv", plain()).canonical()
    pd.testing.assert_frame_equal(found.canonical()[0][same.columns], same)


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a":\n', "[1, 2]\n", "7\n", "\n{}\n", "\n\n"])
def test_invalid_json_lines_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(LogError):
        draft_description(tmp_path / "log.jsonl")
