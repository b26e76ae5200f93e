import os
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from ibis.backends.duckdb import Backend

from features import messages
from features.ingest.ingest import BadRowsError, LogError, validate_log
from mtorl.log.touchpoints import fingerprint, schema
from tests.features.shop_log import SPEC, rows
from tests.messages import raises


def test_a_good_log_becomes_canonical(ingest):
    report = ingest(rows())
    log = pd.read_parquet(ingest.out)
    assert (report.rows, report.users, report.quarantined, report.faults) == (6, 2, 0, ())
    assert list(log) == list(SPEC.log_columns)
    assert log["user_id"].tolist() == ["007"] * 3 + ["b"] * 3  # text, not the number 7
    assert log["timestamp"].dt.day.tolist() == [1, 2, 3] * 2
    assert str(log["timestamp"].dtype) == "datetime64[us, UTC]"
    assert log["device"].tolist() == [None, "NA", "mobile", "mobile", "desktop", "mobile"]
    assert log["tenure"].tolist() == [12.0] * 3 + [0.0] * 3
    assert log["propensity"].isna().all()
    assert report.fingerprint == fingerprint(log)
    assert not ingest.quarantine.exists()
    assert os.listdir(ingest.out.parent) == ["log.parquet"]  # no temporary file is left


@pytest.mark.parametrize("kind", ["log.csv.gz", "log.parquet", "typed.parquet"])
def test_other_formats_give_the_same_log(ingest, tmp_path, kind):
    wanted = ingest(rows()).fingerprint
    frame = pd.read_csv(
        ingest.path, dtype={"user_id": str, "device": str}, keep_default_na=False, na_values={"tenure": ""}
    )
    if kind == "typed.parquet":
        frame["timestamp"] = pd.to_datetime(frame["timestamp"]).dt.tz_convert("Asia/Shanghai")
        frame["click"] = frame["click"].astype(bool)
        frame["channel"] = frame["channel"].astype("category")
    if kind.endswith(".parquet"):
        frame.to_parquet(tmp_path / kind)
    assert ingest(frame if kind == "log.csv.gz" else None, name=kind).fingerprint == wanted


def test_whole_numbers_are_valid_names(ingest, tmp_path):
    frame = rows().assign(user_id=[1.0, 1.0, 1.0, 2.0, 2.0, 2.0], campaign_id=[7] * 6)
    frame = frame.astype({name: float for name in ("cost", "click", "conversion", "revenue", "hour")})
    frame.assign(tenure=1.0).to_parquet(tmp_path / "n.parquet")
    ingest(None, name="n.parquet")
    log = pd.read_parquet(ingest.out)
    assert log["user_id"].unique().tolist() == ["1", "2"] and log["campaign_id"].unique().tolist() == ["7"]


FAULTS = {
    "unparsable_timestamp": [
        *(("timestamp", value) for value in ("yesterday", "", "1714557600", "1800-01-01", "infinity")),
        *(("created_timestamp", value) for value in ("later", "")),
    ],
    "unknown_channel": [("channel", "tv")],
    "negative_cost": [("cost", "-0.5")],
    "huge_cost": [("cost", "1.1e15")],
    "not_a_number": [
        *(("cost", value) for value in ("cheap", "no", "inf")),
        *(("hour", "noon"), ("propensity", "x"), ("viewed", "much"), ("click", "nope")),
    ],
    "not_binary": [("click", "2"), ("conversion", "0.5")],
    "missing_value": [("channel", ""), ("cost", ""), ("user_id", " "), ("hour", ""), ("age", "")],
    "changing_static": [("age", "25-34")],
    "propensity_out_of_range": [("propensity", "1.5")],
}


def test_each_bad_row_is_named_and_quarantined(ingest):
    cells = [(rule, *cell) for rule, of_rule in FAULTS.items() for cell in of_rule]
    users = [rows()[:3].assign(user_id=f"u{i:02d}") for i in range(len(cells))]
    frame = pd.concat(users, ignore_index=True).assign(created_timestamp="2024-06-01T00:00:00Z", propensity="0.5")
    wanted = {}
    for i, (rule, column, value) in enumerate(cells):
        frame.loc[3 * i + 1, column] = value
        wanted[str(3 * i + 2)] = (f"{rule} ({column})", value)
    with raises(BadRowsError, messages.BAD_ROWS, log=ingest.path, bad=len(cells), total=len(frame)):
        ingest(frame)
    assert not ingest.out.exists()
    side = pd.read_csv(ingest.quarantine, dtype=str, keep_default_na=False)
    kept = {row["row"]: (row["fault"], row[row["fault"].split("(")[1][:-1]]) for row in side.to_dict("records")}
    assert kept == wanted and set(side["campaign_id"]) == {"spring"}
    report = ingest(frame, "quarantine")
    assert (report.rows, report.users, report.quarantined) == (2 * len(cells), len(cells), len(cells))
    assert {(f.rule, f.column): f.count for f in report.faults} == Counter(cell[:2] for cell in cells)
    assert len(pd.read_parquet(ingest.out)) == 2 * len(cells)


def test_a_user_with_one_touchpoint_is_a_fault_unless_the_data_set_allows_it(ingest):
    frame = rows().iloc[:4]
    assert ingest(frame, "quarantine").users == 1
    assert ingest(frame, spec=SPEC.replace(min_touchpoints=1)).users == 2
    report = ingest(rows().assign(cost=["1"] * 4 + ["-1"] * 2), "quarantine")  # leaves user b one good touchpoint
    assert [(f.rule, f.count) for f in report.faults] == [("negative_cost", 2), ("single_touchpoint", 1)]
    assert (report.rows, report.quarantined) == (3, 3)


def test_all_faults_are_listed_and_a_row_has_all_its_reasons(ingest):
    frame = rows()
    frame.loc[0, ["channel", "cost", "hour"]] = ["tv", "-1", "x"]
    frame.loc[3, "cost"] = "-2"
    with pytest.raises(BadRowsError) as caught:
        ingest(frame)
    found = {(f["rule"], f["column"], f["count"], f["row"]) for f in caught.value.args[0].values["faults"]}
    assert found == {
        ("unknown_channel", "channel", 1, 1),
        ("negative_cost", "cost", 2, 1),
        ("not_a_number", "hour", 1, 1),
    }
    reasons = pd.read_csv(ingest.quarantine)["fault"].tolist()
    assert reasons == ["unknown_channel (channel); negative_cost (cost); not_a_number (hour)", "negative_cost (cost)"]


def test_ties_are_moved_apart_in_the_order_of_the_file(ingest):
    frame = rows()
    frame.loc[[0, 1, 2], "timestamp"] = "2024-05-01T10:00:00.000001Z"
    frame.loc[[0, 1, 2], "campaign_id"] = ["z", "y", "x"]
    frame.loc[[3, 4], "timestamp"] = ["2024-05-01T10:00:00.0000001Z", "2024-05-01T10:00:00.0000002Z"]  # below 1 us
    report = ingest(frame)
    log = pd.read_parquet(ingest.out)
    assert (report.rows, report.faults, report.moved_ties) == (6, (), 3)
    assert log["campaign_id"].tolist()[:3] == ["z", "y", "x"]
    assert log["timestamp"].dt.microsecond.tolist()[:5] == [1, 2, 3, 0, 1]
    assert log["channel"].tolist()[3:5] == ["social", "search"]


def test_times_become_utc_and_the_arrival_time_is_the_last_column(ingest):
    frame = rows().assign(created_timestamp="2024-06-01 12:00:00+02:00")
    frame.loc[0, "timestamp"] = "2024-05-03 12:00:00+02:00"
    frame.loc[3, "timestamp"] = "2024-05-01 10:00:00"
    ingest(frame)
    log = pd.read_parquet(ingest.out)
    assert (log["timestamp"].dt.hour == 10).all()
    assert list(log) == [*SPEC.log_columns, "created_timestamp"]
    assert set(log["created_timestamp"]) == {pd.Timestamp("2024-06-01T10:00:00Z")}
    written, wanted = pq.read_schema(ingest.out), schema(SPEC, ["created_timestamp"])
    assert (written.names, written.types) == (wanted.names, wanted.types)


def test_a_log_without_good_rows_fails_and_a_good_log_removes_old_quarantine(ingest):
    with raises(BadRowsError, messages.NO_GOOD_ROW, total=6, dataset="shop"):
        ingest(rows().assign(channel="tv"), "quarantine")
    assert not ingest.out.exists() and len(pd.read_csv(ingest.quarantine)) == 6
    ingest(rows())
    assert not ingest.quarantine.exists()


def test_a_failed_write_leaves_the_old_file(ingest, monkeypatch):
    ingest(rows())
    before = ingest.out.read_bytes()
    write = Backend.to_parquet

    def broken(self, table, path, **options):
        if Path(path).parent != ingest.out.parent:
            return write(self, table, path, **options)
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Backend, "to_parquet", broken)
    with pytest.raises(OSError, match="disk full"):
        ingest(rows())
    assert ingest.out.read_bytes() == before and os.listdir(ingest.out.parent) == ["log.parquet"]


def test_propensity_is_required_if_described_as_logged(ingest):
    logged = SPEC.replace(propensity="logged")
    with raises(LogError, messages.MISSING_COLUMNS, missing=["propensity"]):
        ingest(rows(), spec=logged)
    report = ingest(rows().assign(propensity=["0.5", "0", "1.2", "", "1", "0.1"]), "quarantine", logged)
    found = [(f.rule, f.count, f.example, f.row) for f in report.faults if f.column == "propensity"]
    assert sorted(found) == [("missing_value", 1, "", 4), ("propensity_out_of_range", 2, "'0'", 2)]


def test_validation_alone_writes_no_log(ingest, tmp_path):
    rows().assign(cost=["-1"] + ["1"] * 5).to_csv(ingest.path, index=False)
    report = validate_log(ingest.path, SPEC)
    assert (report.rows, report.users, report.quarantined, report.fingerprint) == (5, 2, 1, "")
    assert os.listdir(tmp_path) == ["log.csv"]
    with_file = validate_log(ingest.path, SPEC, tmp_path / "q.csv")
    assert with_file == report and len(pd.read_csv(tmp_path / "q.csv")) == 1


def test_a_corrected_quarantine_file_can_be_ingested(ingest, tmp_path):
    frame = rows().assign(row="own", fault="own")  # the quarantine file's own column names
    frame.loc[1, "cost"] = "-1"
    ingest(frame, "quarantine")
    side = pd.read_csv(ingest.quarantine, dtype=str, keep_default_na=False)
    assert list(side) == ["row", *(c for c in frame if c not in ("row", "fault")), "row.1", "fault.1", "fault"]
    assert side.loc[0, ["row", "row.1", "fault.1", "fault"]].tolist() == ["2", "own", "own", "negative_cost (cost)"]
    mended = ingest(side.assign(cost="1"), spec=SPEC.replace(min_touchpoints=1))
    assert mended.rows == 1
