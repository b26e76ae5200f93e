"""Tests that each outcome in a second file is counted once, or left out with a reason."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import messages
from features.data_folder import canonical_log
from features.ingest.conversions import FILE
from features.ingest.ingest import BadRowsError, IngestReport, validate_log
from features.ingest.log_folder import RawLog, content_of, ingest
from mtorl.log.dataset import DatasetSpec, SpecError
from mtorl.log.touchpoints import DATASET_FILE, LogError
from tests.features.shop_log import canonical
from tests.messages import raises

DAY = 86_400
START = 1_704_067_200  # seconds since 1970
DESCRIPTION: dict[str, Any] = yaml.safe_load("""
name: shop
channels: [search, social]
propensity: channel-frequency
columns: {user_id: uid, timestamp: {column: at, unit: s}, campaign_id: {value: all}, channel: slot, touchpoint_id: imp}
conversions: {source: orders.csv, columns: {
    touchpoint_id: imp, event_id: order, timestamp: {column: ordered, timezone: Europe/Berlin},
    conversion: {value: 1}, revenue: {column: cents, per: 100}}}
""")
BY_USER: dict[str, Any] = {
    **DESCRIPTION,
    "columns": {name: source for name, source in DESCRIPTION["columns"].items() if name != "touchpoint_id"},
    **yaml.safe_load("""
conversions: {source: orders.csv, attribution_days: 2, columns: {
    user_id: uid, timestamp: {column: ordered, unit: s}, conversion: {value: 1}, revenue: {column: cents, per: 100}}}
"""),
}


def log(*shown: tuple[str, int]) -> pd.DataFrame:
    rows = [(f"i{row}", user, START + at, "search", 0.5, 0) for row, (user, at) in enumerate(shown)]
    return pd.DataFrame(rows, columns=["imp", "uid", "at", "slot", "cost", "click"])


def orders(*told: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(told, columns=["order", "imp", "ordered", "cents"])


def sold(*told: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(told, columns=["uid", "ordered", "cents"])


class Shop:
    def __init__(self, folder: Path, shown: pd.DataFrame, later: pd.DataFrame, description: dict[str, Any]) -> None:
        self.folder, self.log = folder, folder / "log.csv"
        shown.to_csv(self.log, index=False)
        later.to_csv(folder / "orders.csv", index=False)
        DatasetSpec.from_dict(description).save(folder / "shop.yaml")
        self.spec = DatasetSpec.load(folder / "shop.yaml")

    def ingest(self, bad_rows: str = "fail") -> tuple[pd.DataFrame, IngestReport]:
        return canonical(self.log, self.spec, bad_rows)

    def left_out(self) -> list[tuple[int, str]]:
        path = self.folder / FILE
        return list(pd.read_csv(path)[["row", "reason"]].itertuples(index=False, name=None)) if path.exists() else []


def test_outcomes_find_their_touchpoint_by_its_id_with_their_times(tmp_path: Path) -> None:
    shown = log(("a", 0), ("a", DAY), ("b", 0), ("c", 60))
    told = orders(
        ("o1", "i0", "2024-01-05 13:00:00", 1250),  # after the user's next touchpoint
        ("o2", "i0", "2024-01-02 13:00:00", -250),
        # The time of the touchpoint itself, midnight in UTC.
        ("o3", "i2", "2024-01-01 01:00:00", 100),
        # Before the touchpoint.
        ("o4", "i3", "2024-01-01 01:00:30", 100),
        ("o5", "i9", "2024-01-09 01:00:00", 100),
        ("o6", "", "2024-01-09 01:00:00", 100),
        # Left out: only the first row of an order counts.
        ("o1", "i1", "2024-01-09 01:00:00", 77),
    )
    shop = Shop(tmp_path, shown, told, DESCRIPTION)
    found, report = shop.ingest()
    assert list(found) == [*shop.spec.log_columns, "conversion_time", "revenue_time"]
    assert found[["conversion", "revenue"]].to_numpy().tolist() == [[1, 10.0], [0, 0.0], [1, 1.0], [0, 0.0]]
    assert found["conversion"].dtype == "int64"
    times = found[["conversion_time", "revenue_time"]].astype(str).to_numpy().tolist()
    first, last, at_once = "2024-01-02 12:00:00+00:00", "2024-01-05 12:00:00+00:00", "2024-01-01 00:00:00+00:00"
    assert times == [[first, last], ["NaT", "NaT"], [at_once, at_once], ["NaT", "NaT"]]
    told_of = report.conversions
    assert told_of is not None and (told_of.rows, told_of.attributed, told_of.repeated) == (7, 3, 1)
    assert told_of.unattributed == {"no_touchpoint": 2, "before_touchpoint": 1, "outside_window": 0}
    reasons = [(4, "before_touchpoint"), (5, "no_touchpoint"), (6, "no_touchpoint"), (7, "repeated")]
    assert shop.left_out() == reasons


users = st.sampled_from("abc")
times = st.integers(0, 40).map(lambda hours: hours * 21_600)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shown=st.lists(st.tuples(users, times), min_size=1, max_size=8, unique=True),
    told=st.lists(st.tuples(st.sampled_from("abcz"), times, st.integers(-500, 500)), min_size=1, max_size=10),
    days=st.sampled_from([0.25, 1.0, 3.0, 100.0]),
)
def test_every_outcome_counts_once_or_is_left_out_with_a_reason(
    tmp_path: Path, shown: list[tuple[str, int]], told: list[tuple[str, int, int]], days: float
) -> None:
    description = {**BY_USER, "conversions": {**BY_USER["conversions"], "attribution_days": days}}
    told_at = [(user, START + at - 6 * DAY // 4, cents) for user, at, cents in told]
    shop = Shop(tmp_path, log(*shown), sold(*told_at), description)
    expected: dict[tuple[str, int], float] = dict.fromkeys(((user, START + at) for user, at in shown), 0.0)
    reasons = []
    for place, (user, at, cents) in enumerate(told_at):
        times = [time for who, time in expected if who == user]
        before = [time for time in times if time <= at]
        if (user, at, cents) in told_at[:place]:
            reasons.append((place + 1, "repeated"))
        elif before and at - max(before) <= days * DAY:
            expected[user, max(before)] += cents / 100
        else:
            reason = "outside_window" if before else "before_touchpoint" if times else "no_touchpoint"
            reasons.append((place + 1, reason))
    counted = len(told) - len(reasons)
    if not counted:
        with raises(LogError, messages.NO_CONVERSION_FITS):
            shop.ingest()
        return
    found, report = shop.ingest()
    seconds = found["timestamp"].astype("int64") // 1_000_000
    keys = list(zip(found["user_id"], seconds, strict=True))
    assert dict(zip(keys, found["revenue"], strict=True)) == pytest.approx(expected)
    assert found.loc[found["revenue"] != 0, "revenue_time"].notna().all()
    assert not (found["revenue_time"] < found["timestamp"]).any()
    assert not (found["conversion_time"] < found["timestamp"]).any()
    known = report.conversions
    assert known is not None and known.attributed == counted
    assert known.rows == len(told) == known.attributed + sum(known.unattributed.values()) + known.repeated
    assert shop.left_out() == reasons and len(reasons) == known.left_out


def test_faulty_rows_of_the_second_file_are_reported_or_left_out(tmp_path: Path) -> None:
    told = orders(
        ("o1", "i0", "soon", 100),
        # Counts, because the order's first row is faulty.
        ("o1", "i0", "2024-01-02 13:00:00", 300),
        ("o3", "i0", "2024-01-02 13:00:00", "many"),
        ("o4", "i0", "2024-01-02 13:00:00", None),
    )
    shop = Shop(tmp_path, log(("a", 0)), told, DESCRIPTION)
    with pytest.raises(LogError) as caught:
        shop.ingest()
    assert not isinstance(caught.value, BadRowsError), "there is no quarantine file to mention"
    assert {(f["file"], f["rule"], f["column"], f["row"]) for f in caught.value.args[0].values["faults"]} == {
        ("orders.csv", "unparsable_timestamp", "ordered", 1),
        ("orders.csv", "not_a_number", "cents", 3),
        ("orders.csv", "missing_value", "cents", 4),
    }
    assert not (tmp_path / "out.parquet").exists()
    found, report = shop.ingest("quarantine")
    assert found["revenue"].tolist() == [3.0]
    assert report.conversions is not None and report.conversions.faulty == 3
    assert shop.left_out() == [(1, "faulty"), (3, "faulty"), (4, "faulty")]
    checked = validate_log(shop.log, shop.spec)
    assert checked.conversions == report.conversions


def test_outcomes_of_rows_that_are_quarantined_are_left_out(tmp_path: Path) -> None:
    shown = log(("a", 0), ("a", DAY)).assign(cost=[-1.0, 0.5])
    told = orders(("o1", "i0", "2024-01-05 13:00:00", 100), ("o2", "i1", "2024-01-05 13:00:00", 200))
    shop = Shop(tmp_path, shown, told, DESCRIPTION)
    found, report = shop.ingest("quarantine")
    assert (report.quarantined, found["revenue"].tolist()) == (1, [2.0])
    assert shop.left_out() == [(1, "no_touchpoint")]


def test_a_file_without_the_described_columns_is_refused(tmp_path: Path) -> None:
    of_another_log = orders(("o1", "imp-7", "2024-01-05 13:00:00", 100))
    with raises(LogError, messages.NO_CONVERSION_FITS, theirs="'imp-7'", own="'i0'"):
        Shop(tmp_path, log(("a", 0)), of_another_log, DESCRIPTION).ingest()
    with raises(LogError, messages.MISSING_COLUMNS, missing=["imp", "order", "ordered", "cents"]) as caught:
        Shop(tmp_path, log(("a", 0)), pd.DataFrame(columns=["imp;order;ordered;cents"]), DESCRIPTION).ingest()
    assert "add to conversions: file: {separator: ';'}" in str(caught.value)
    found, report = Shop(tmp_path, log(("a", 0)), orders(), DESCRIPTION).ingest()  # an empty file is valid
    assert found["revenue"].tolist() == [0.0] and found["revenue_time"].isna().all()
    assert report.conversions is not None and report.conversions.rows == 0


def test_the_logs_folder_is_independent_of_the_second_file(tmp_path: Path) -> None:
    told = orders(("o1", "i0", "2024-01-05 13:00:00", 100), ("o2", "", "2024-01-05 13:00:00", 200))
    shop = Shop(tmp_path, log(("a", 0), ("b", 0)), told, DESCRIPTION)
    raw = RawLog(str(shop.log), str(tmp_path / "shop.yaml"))
    report = ingest(raw, tmp_path / "a", tmp_path / "f.csv")
    plain = DatasetSpec.load(tmp_path / "a" / DATASET_FILE)
    assert plain == shop.spec.of_canonical_log() and "conversions" not in plain.to_dict()
    assert (tmp_path / "a" / FILE).exists()
    assert canonical_log(RawLog(str(tmp_path / "a"), ""), tmp_path / "x", tmp_path / "f.csv").spec == plain
    # The canonical log may also be read with the raw files' description, as on a volume.
    again = RawLog(str(tmp_path / "a" / "touchpoints.parquet"), str(tmp_path / "shop.yaml"))
    assert ingest(again, tmp_path / "b", tmp_path / "f.csv").fingerprint == report.fingerprint
    with raises(LogError, messages.TRUSTED_CONVERSIONS):
        canonical_log(RawLog(str(shop.log), str(tmp_path / "shop.yaml")), tmp_path / "x", tmp_path / "f.csv", True)
    before = content_of(raw)
    orders().to_csv(tmp_path / "orders.csv", index=False)
    assert content_of(raw) != before, "a cached step would keep the old outcomes"


def test_a_log_may_contain_the_time_at_which_an_outcome_became_known(tmp_path: Path) -> None:
    bought = {"conversion": [1, 0, 1, 0], "revenue": 0.0, "bought": [START + 9, None, START - 1, None]}
    columns = {**BY_USER["columns"], "conversion_time": {"column": "bought", "unit": "s"}}
    shown = log(("a", 0), ("a", 60), ("b", 0), ("b", 60)).assign(**bought)
    shop = Shop(tmp_path, shown, sold(), {**BY_USER, "columns": columns, "conversions": None})
    found, report = shop.ingest("quarantine")
    assert [(f.rule, f.column, f.count) for f in report.faults] == [("outcome_before_touchpoint", "bought", 1)]
    assert found["conversion_time"].astype(str).tolist() == ["2024-01-01 00:00:09+00:00", "NaT", "NaT"]


def test_a_timed_outcome_needs_its_time(tmp_path: Path) -> None:
    shown = log(("a", 0), ("a", 60), ("b", 0)).assign(conversion=[1, 1, 0], revenue=0.0, bought=[START + 9, None, None])
    columns = {**BY_USER["columns"], "conversion_time": {"column": "bought", "unit": "s"}}
    timed = {**BY_USER, "columns": columns, "conversions": None, "timed": ["conversion"]}
    shop = Shop(tmp_path, shown, sold(), timed)
    found, report = shop.ingest("quarantine")
    assert [(f.rule, f.column, f.count) for f in report.faults] == [("outcome_without_time", "bought", 1)]
    assert found["conversion"].tolist() == [1, 0]
    shop = Shop(tmp_path, shown, sold(), {**timed, "columns": BY_USER["columns"]})
    with raises(LogError, messages.MISSING_COLUMNS, missing=["conversion_time"]):
        shop.ingest()
    both = {**BY_USER, "timed": list(BY_USER["conversions"]["columns"].keys() & {"conversion", "revenue"})}
    found, _ = Shop(tmp_path, log(("a", 0), ("a", 60)), sold(("a", START + 70, 100)), both).ingest()
    assert found["revenue_time"].notna().sum() == 1


def test_a_moved_touchpoint_is_not_later_than_its_immediate_outcomes(tmp_path: Path) -> None:
    told = sold(("a", START, 100))
    shown = log(("a", 0), ("a", 0)).assign(slot=["search", "social"])
    found, report = Shop(tmp_path, shown, told, BY_USER).ingest()
    assert report.moved_ties == 1 and found["revenue"].tolist() == [1.0, 0.0]
    assert not (found["revenue_time"] < found["timestamp"]).any()


@pytest.mark.parametrize(
    "change",
    [
        {"columns": {"timestamp": "t", "revenue": "r"}},
        {"columns": {"user_id": "u", "touchpoint_id": "i", "timestamp": "t", "revenue": "r"}},
        {"columns": {"user_id": "u", "revenue": "r"}},
        {"columns": {"user_id": "u", "timestamp": "t"}},
        {"columns": {"user_id": "u", "timestamp": "t", "cost": "r"}},
        {"columns": {"user_id": "u", "timestamp": {"value": 3}, "revenue": "r"}},
        {"attribution_days": 0},
    ],
    ids=str,
)
def test_a_wrong_description_of_a_second_file_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="conversions"):
        DatasetSpec.from_dict({**BY_USER, "conversions": {**BY_USER["conversions"], **change}})


def test_only_a_log_of_ones_own_has_a_second_file(tmp_path: Path) -> None:
    spec = DatasetSpec.load("criteo-attribution")
    described = DatasetSpec.from_dict({**spec.to_dict(), "conversions": BY_USER["conversions"]})
    with raises(SpecError, messages.FIXED_FILES, field="conversions", adapter="criteo-attribution"):
        validate_log(tmp_path / "log.tsv", described)


def test_the_address_of_a_second_file_is_kept(tmp_path: Path) -> None:
    remote = {**DESCRIPTION, "conversions": {**DESCRIPTION["conversions"], "source": "s3://logs/orders/"}}
    DatasetSpec.from_dict(remote).save(tmp_path / "b.yaml")
    far = DatasetSpec.load(tmp_path / "b.yaml").conversions
    assert far is not None and far.source == "s3://logs/orders/"
