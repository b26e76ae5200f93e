"""A first description of a log that nobody described: it loads, it fits its log, and says what it can't know."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from features.ingest.draft import draft_description
from features.ingest.ingest import ingest_log, validate_log
from mtorl.log.dataset import DatasetSpec, SpecError
from mtorl.log.touchpoints import LogError
from mtorl.simulator.raw_log import write_raw_log
from mtorl.simulator.simulator import SimulatorConfig

ROWS = 600


def foreign() -> dict[str, Any]:
    """Columns of a log as an agency might have it."""
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
    }


def draft(folder: Path, columns: dict[str, Any], name: str = "my.log.csv", **options: Any) -> tuple[Any, Path]:
    path = folder / name
    frame = pd.DataFrame(columns)
    frame.to_parquet(path) if name.endswith(".parquet") else frame.to_csv(path, index=False)
    return draft_description(path, **options), path


def test_a_foreign_log_is_described_and_fits_its_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.ingest.draft_text._MOST_CATEGORIES", 100)
    found, path = draft(tmp_path, foreign())
    spec = found.spec
    assert (spec.name, spec.channels, spec.propensity) == ("my", ("search", "social", "video"), "channel-frequency")
    sources = {name: source.column or source.value for name, source in spec.columns.items()}
    assert sources == {
        **{"user_id": "uid", "timestamp": "shown_at", "campaign_id": "line_item", "channel": "slot"},
        **{"cost": "price_paid", "click": "clicked", "conversion": 0.0, "revenue": "profit"},
        "query_text": "query text",
    }
    assert spec.columns["timestamp"].unit == "s"
    codes = ("categorical", "error")
    kinds = {"hour": ("numeric", "error"), "os": ("categorical", "unknown"), "tier": codes, "query_text": codes}
    assert {c.name: (c.kind, c.missing) for c in spec.context} == kinds
    assert [c.name for c in spec.static] == ["age"] and spec.segment == "age"
    assert [c.name for c in spec.outcomes] == ["dwell_seconds"]
    left_out = [line for line in found.text.splitlines() if line.startswith("# left out")]
    assert [line.split(": ")[1] for line in left_out] == ["country", "request"]
    assert any(note.startswith("propensity: how was the channel chosen?") for note in found.notes)
    assert found.checks == () and found.text.count("# NOTE") == len(found.notes)
    (tmp_path / "my.yaml").write_text(found.text)
    report = validate_log(path, DatasetSpec.load(tmp_path / "my.yaml"))
    assert (report.rows, report.quarantined) == (ROWS, 0)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
def test_units_of_time_are_told_by_size(tmp_path: Path, unit: str, factor: int) -> None:
    columns = foreign()
    columns["when"] = columns.pop("shown_at") * factor  # a name that says nothing: it is the only time
    found, _ = draft(tmp_path, columns)
    assert (found.spec.columns["timestamp"].column, found.spec.columns["timestamp"].unit) == ("when", unit)


def test_typed_times_and_logged_propensities(tmp_path: Path) -> None:
    columns = {**foreign(), "shown_at": pd.date_range("2024-01-01", periods=ROWS, freq="min", tz="Europe/Berlin")}
    found, path = draft(tmp_path, {**columns, "prob": [0.5] * ROWS}, "log.parquet")
    assert found.spec.propensity == "logged" and found.spec.columns["timestamp"].unit is None
    assert validate_log(path, found.spec).quarantined == 0


def test_what_somebody_knows_is_believed(tmp_path: Path) -> None:
    found, _ = draft(tmp_path, foreign(), named={"channel": "os", "cost": "tier"}, name="x.csv")
    assert found.spec.columns["channel"].column == "os" and found.spec.columns["cost"].column == "tier"
    for named in ({"channel": "medium"}, {"user": "uid"}):
        with pytest.raises(LogError):
            draft(tmp_path, foreign(), named=named)


def test_what_it_does_not_see_it_asks_for(tmp_path: Path) -> None:
    columns = foreign()
    columns["who"], columns["what"] = columns.pop("uid"), columns.pop("slot")
    with pytest.raises(LogError, match=r"--column user_id=NAME --column channel=NAME"):
        draft(tmp_path, columns)
    with pytest.raises(LogError, match="more than 50 values"):
        draft(tmp_path, foreign(), named={"channel": "request"})


def test_a_built_in_log_is_recognised_and_a_canonical_one_needs_no_names(tmp_path: Path) -> None:
    write_raw_log(tmp_path / "s.csv", SimulatorConfig(users=40))
    with pytest.raises(LogError, match="a log of data set 'simulator', which needs no description"):
        draft_description(tmp_path / "s.csv")
    found = draft_description(tmp_path / "s.csv", named={"channel": "channel"})
    assert "columns" not in yaml.safe_load(found.text)
    assert validate_log(tmp_path / "s.csv", found.spec).quarantined == 0


# ---- a second file


def purchases(log: dict[str, Any], key: str) -> pd.DataFrame:
    random = np.random.default_rng(5)
    rows = random.choice(ROWS, 80, replace=False)
    return pd.DataFrame(
        {
            "order_no": [f"o{row}" for row in rows],
            key: np.append(np.array(log[key], dtype=object)[rows[:70]], ["elsewhere"] * 10),
            "at": log["shown_at"][rows] + 3600,
            "items": random.integers(1, 5, 80),
            "amount": random.random(80).round(2),
        }
    )


@pytest.mark.parametrize(("key", "column"), [("request", "touchpoint_id"), ("uid", "user_id")])
def test_a_second_file_is_described_by_what_it_shares_with_the_log(tmp_path: Path, key: str, column: str) -> None:
    log = {name: values for name, values in foreign().items() if name != "profit"}
    purchases(log, key).to_csv(tmp_path / "orders.csv", index=False)
    found, path = draft(tmp_path, log, conversions=tmp_path / "orders.csv", told="orders.csv")
    (tmp_path / "my.yaml").write_text(found.text)
    spec = DatasetSpec.load(tmp_path / "my.yaml")
    assert spec.conversions is not None
    sources = {name: source.column or source.value for name, source in spec.conversions.columns.items()}
    assert sources == {column: key, "event_id": "order_no", "timestamp": "at", "conversion": 1, "revenue": "amount"}
    assert spec.conversions.columns["timestamp"].unit == "s"
    assert spec.timed == spec.conversions.outcomes == ("conversion", "revenue")
    assert spec.conversions.days == (30 if column == "user_id" else None)
    assert ("touchpoint_id" in spec.columns) == (column == "touchpoint_id")
    assert "conversion" not in spec.columns and "revenue" not in spec.columns
    told = validate_log(path, spec).conversions
    assert told is not None and (told.attributed, told.unattributed["no_touchpoint"], told.faulty) == (70, 10, 0)


def test_a_second_file_of_something_else_is_refused(tmp_path: Path) -> None:
    log = foreign()
    other = purchases(log, "uid")
    for unfit, words in ((other.assign(uid="nobody"), "ids or users"), (other.drop(columns="at"), "times")):
        unfit.to_csv(tmp_path / "orders.csv", index=False)
        with pytest.raises(LogError, match=words):
            draft(tmp_path, log, conversions=tmp_path / "orders.csv")


def test_an_exposure_of_a_log_without_cost_costs_one_unit(tmp_path: Path) -> None:
    columns = foreign()
    del columns["price_paid"]
    found, path = draft(tmp_path, columns)
    assert found.spec.columns["cost"].value == 1 and any(note.startswith("cost: ") for note in found.notes)
    assert validate_log(path, found.spec).quarantined == 0


def test_a_gain_is_an_outcome_that_there_is_some_of(tmp_path: Path) -> None:
    found, _ = draft(tmp_path, {**foreign(), "clicked": np.zeros(ROWS, dtype=int)})
    assert found.spec.reward.gain.plain == "revenue"


def test_a_value_that_hardly_any_row_has_is_no_channel(tmp_path: Path) -> None:
    """One row of 600 with a typo, and a small channel of ten rows, which stays."""
    columns = foreign()
    columns["slot"][:11] = ["seach", *["audio"] * 10]
    found, path = draft(tmp_path, columns)
    assert found.spec.channels == ("audio", "search", "social", "video")
    (note,) = [note for note in found.notes if note.startswith("channels: ")]
    assert "'seach' (1 row)" in note
    (fault,) = validate_log(path, found.spec).faults
    assert (fault.rule, fault.count) == ("unknown_channel", 1)
    alone = {**columns, "slot": ["a"] * (ROWS - 1) + ["b"]}  # there are no others
    assert draft(tmp_path, alone, named={"channel": "slot"})[0].spec.channels == ("a", "b")


@pytest.mark.parametrize("words", ["true false", "True False", "TRUE FALSE", "yes no", "Y N", "t f", "1 0"])
def test_outcomes_in_words_are_seen_and_read(tmp_path: Path, words: str) -> None:
    """An end to end: the description finds them by their values, and the log has ones and zeros."""
    happened, columns = np.arange(ROWS) % 3 == 0, foreign()
    columns["clicked"] = columns["liked"] = np.where(happened, *words.split())
    found, path = draft(tmp_path, columns)
    assert found.spec.columns["click"].column == "clicked" and "click" in found.spec.reward.gain.names
    assert "liked" in [column.name for column in found.spec.outcomes]
    report = ingest_log(path, found.spec, tmp_path / "log.parquet", tmp_path / "faulty.csv")
    log = pd.read_parquet(tmp_path / "log.parquet").sort_values("timestamp")
    assert (report.rows, report.faults) == (ROWS, ())
    assert (log["click"] == happened).all() and (log["liked"] == happened).all()


# ---- what is unlikely is asked


def bandit(**changes: Any) -> dict[str, Any]:
    """A log of a uniform policy over twelve items; no column is the user."""
    random = np.random.default_rng(8)
    log = {
        "row": np.arange(ROWS),
        "timestamp": [f"{at:%Y-%m-%d %H:%M:%S}" for at in pd.date_range("2024-01-01", periods=ROWS, freq="min")],
        "item_id": random.integers(0, 12, ROWS),
        "position": random.integers(1, 4, ROWS),
        "click": random.integers(0, 2, ROWS),
        "propensity_score": [1 / 12] * ROWS,
        "user_feature_0": random.choice(["a", "b", "c"], ROWS),
        "user-item_affinity_0": random.random(ROWS).round(3),
    }
    return {**log, **changes}


def test_a_feature_of_users_is_no_user_and_the_channel_is_what_the_propensity_is_of(tmp_path: Path) -> None:
    found, path = draft(tmp_path, bandit())
    assert (found.spec.columns["user_id"].column, found.spec.columns["channel"].column) == ("row", "item_id")
    assert [check.partition(":")[0] for check in found.checks] == ["user_id", "channel"]
    names = {c.name for c in found.spec.context}
    assert {"position", "user_feature_0", "user_item_affinity_0"} <= names
    (tmp_path / "log.yaml").write_text(found.text)
    with pytest.raises(SpecError, match="has 2 open CHECK"):
        DatasetSpec.load(tmp_path / "log.yaml")
    (tmp_path / "log.yaml").write_text(re.sub(r"(?m)^ *# CHECK.*\n", "", found.text))
    assert validate_log(path, DatasetSpec.load(tmp_path / "log.yaml")).quarantined == 0


def test_who_answers_beforehand_is_not_asked(tmp_path: Path) -> None:
    found, _ = draft(tmp_path, bandit(), named={"user_id": "user_feature_0", "channel": "position"})
    assert found.checks == () and found.spec.columns["channel"].column == "position"


def test_a_propensity_that_is_no_columns_is_asked_about(tmp_path: Path) -> None:
    found, _ = draft(tmp_path, bandit(propensity_score=[1 / 500] * ROWS, visitor=np.arange(ROWS) // 4))
    (check,) = found.checks
    assert check.startswith("propensity: ")
    assert found.spec.columns["user_id"].column == "visitor"


def test_an_outcome_of_another_language_is_asked_about_and_what_it_determines_is_no_context(tmp_path: Path) -> None:
    columns = foreign()
    click = columns.pop("clicked")
    del columns["profit"], columns["dwell_seconds"]
    columns |= {"geklickt": click, "Umsatz (€)": click * np.arange(1, ROWS + 1), "CTR": click / 4}
    found, _ = draft(tmp_path, columns)
    (check,) = found.checks
    assert check.startswith("click: ")
    assert found.spec.columns["click"].column == "geklickt"
    assert [c.name for c in found.spec.outcomes] == ["Umsatz", "CTR"]


def test_every_name_of_a_column_can_be_read(tmp_path: Path) -> None:
    names = ["Gerät", "geraet-typ", "geraet typ", "2nd", "step", "a'b\"c", "hist_x"]
    random = np.random.default_rng(1)
    found, path = draft(tmp_path, foreign() | {name: random.random(ROWS).round(4) for name in names})
    called = {source.column: name for name, source in found.spec.columns.items()}
    plain = ["Gerat", "geraet_typ", "geraet_typ_2", "log_2nd", "log_step", "a_b_c", "log_hist_x"]
    assert [called[name] for name in names] == plain
    ingest_log(path, found.spec, tmp_path / "log.parquet", tmp_path / "faulty.csv")
    log = pd.read_parquet(tmp_path / "log.parquet").sort_values("timestamp", ignore_index=True)
    raw = pd.read_csv(path)
    assert all(log[called[name]].tolist() == raw[name].tolist() for name in names)


@pytest.mark.parametrize(("name", "per"), [("Cost (micros)", 1_000_000), ("cost cents", 100), ("eCPM", 1000)])
def test_an_amount_in_another_unit_is_known_by_its_name(name: str, per: int, tmp_path: Path) -> None:
    columns = foreign()
    columns[name] = columns.pop("price_paid") * per
    found, _ = draft(tmp_path, columns)
    assert (found.spec.columns["cost"].column, found.spec.columns["cost"].per) == (name, per)


@pytest.mark.parametrize(
    ("role", "values", "rest"),
    [
        *(("cost", "€1,234.50", 1), ("cost", -1.5, 1), ("click", "ja", 0), ("revenue", "3 EUR", 0)),
        ("propensity", 33.3, None),
    ],
)
def test_a_column_of_the_right_name_and_the_wrong_values_is_asked_about(
    role: str, values: Any, rest: int | None, tmp_path: Path
) -> None:
    log = foreign() | {role: [values] * (ROWS - 1) + [values * 1]}
    for other in {"cost": ["price_paid"], "click": ["clicked"], "revenue": ["profit"]}.get(role, []):
        del log[other]
    found, _ = draft(tmp_path, log | {"conversion": log["tier"] == 1})
    (check,) = found.checks
    assert check.startswith(f"{role}: '{role}'")
    assert role not in {column.name.removeprefix("log_") for column in (*found.spec.context, *found.spec.static)}
    if rest is not None:
        assert found.spec.columns[role].value == rest


def test_days_without_a_clock_and_numbers_among_text_are_questions(tmp_path: Path) -> None:
    log = foreign() | {"shown_at": pd.date_range("2024-01-01", periods=ROWS).strftime("%Y-%m-%d")}
    found, _ = draft(tmp_path, log | {"score": [*(np.arange(ROWS - 9) % 50 * 0.5), *["-"] * 9]})
    day, numbers = found.checks
    assert day.startswith("timestamp: ") and "'score' (591 of 600 values)" in numbers


def test_marks_of_missing_numbers_are_no_text_and_ids_no_context(tmp_path: Path) -> None:
    numbers = np.arange(ROWS)
    score = np.where(numbers % 9 == 0, "NA", (numbers % 50 * 0.5).astype(str))
    added = {"": numbers, "updated": 1_704_067_200 + numbers % 300, "score": score}
    found, _ = draft(tmp_path, added | foreign())
    kinds = {column.name: (column.kind, column.missing) for column in found.spec.context}
    assert kinds["score"] == ("numeric", "unknown")
    assert not {"Unnamed_0", "updated"} & {*kinds}
    assert "Unnamed: 0: another whole number in each row" in found.text


def test_a_time_of_some_rows_is_not_the_time_of_the_exposure(tmp_path: Path) -> None:
    log = foreign()
    clicked = pd.Series(log["shown_at"]).where(log["clicked"] == 1)
    found, _ = draft(tmp_path, {"click_ts": clicked} | log)
    assert found.spec.columns["timestamp"].column == "shown_at"
    assert "click_ts" not in {column.name for column in (*found.spec.context, *found.spec.outcomes)}
