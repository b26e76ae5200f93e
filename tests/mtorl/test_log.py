from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtorl.dataset import DatasetSpec
from mtorl.log import LogError, fingerprint, ingest_log, read_log, schema, validate, write_log

REAL = Path(__file__).parents[2].parent / "shared" / "data"
SPEC = DatasetSpec.from_dict(
    {
        "name": "shop",
        "description": "a small log",
        "adapter": "touchpoints",
        "channels": ["search", "social"],
        "context": [
            {"name": "hour", "kind": "numeric"},
            {"name": "device", "kind": "categorical", "missing": "unknown"},
        ],
        "static": [{"name": "age", "kind": "categorical"}, {"name": "tenure", "kind": "numeric", "missing": "zero"}],
        "segment": "age",
        "reward": {"gain": "click"},
        "propensity": "channel-frequency",
        "currency": "EUR",
        "min_touchpoints": 2,
    }
)


def rows() -> pd.DataFrame:
    """Two users of three touchpoints; everything as text, as in a CSV file."""
    frame = pd.DataFrame(
        {
            "user_id": ["007", "007", "007", "b", "b", "b"],
            "timestamp": [f"2024-05-0{day}T10:00:00Z" for day in (3, 1, 2, 1, 2, 3)],
            "campaign_id": "spring",
            "channel": ["search", "social"] * 3,
            "cost": ["0.5"] * 6,
            "click": ["0", "1"] * 3,
            "conversion": ["0"] * 6,
            "revenue": ["0"] * 6,
            "hour": ["10"] * 6,
            "device": ["mobile", "", "NA", "mobile", "desktop", "mobile"],
            "age": ["18-24"] * 3 + ["65+"] * 3,
            "tenure": ["12", "12", "12", "", "", ""],
        }
    )
    return frame


@pytest.fixture
def ingest(tmp_path):
    """Write rows as CSV and ingest them."""

    def run(frame: pd.DataFrame | None, on_bad_rows: str = "fail", spec: DatasetSpec = SPEC, name: str = "log.csv"):
        path = tmp_path / name
        if frame is not None:
            frame.to_csv(path, index=False)
        return ingest_log(
            path, spec, tmp_path / "out" / "log.parquet", tmp_path / "out" / "quarantine.csv", on_bad_rows
        )

    run.out = tmp_path / "out" / "log.parquet"
    run.quarantine = tmp_path / "out" / "quarantine.csv"
    run.path = tmp_path / "log.csv"
    return run


def test_a_good_log_becomes_canonical(ingest):
    report = ingest(rows())
    log = pd.read_parquet(ingest.out)
    assert (report.rows, report.users, report.quarantined, report.faults) == (6, 2, 0, ())
    assert list(log) == list(SPEC.columns)
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


def test_whole_numbers_are_names_as_well(ingest, tmp_path):
    frame = rows().assign(user_id=[1.0, 1.0, 1.0, 2.0, 2.0, 2.0], campaign_id=[7] * 6)
    frame = frame.astype({name: float for name in ("cost", "click", "conversion", "revenue", "hour")})
    frame.assign(tenure=1.0).to_parquet(tmp_path / "n.parquet")
    ingest(None, name="n.parquet")
    log = pd.read_parquet(ingest.out)
    assert log["user_id"].unique().tolist() == ["1", "2"] and log["campaign_id"].unique().tolist() == ["7"]


FAULTS = [
    # column, value, rule, message
    (
        "timestamp",
        "yesterday",
        "unparsable_timestamp",
        "with an unparsable timestamp, e.g. 'yesterday' (row 2); expected ISO",
    ),
    ("timestamp", "", "unparsable_timestamp", "1 row with an unparsable timestamp"),
    ("timestamp", "1714557600", "unparsable_timestamp", "e.g. '1714557600' (row 2)"),
    ("channel", "tv", "unknown_channel", "1 row with an unknown channel, e.g. 'tv' (row 2); known: search, social"),
    ("channel", "", "missing_value", "1 row without a value, e.g. row 2"),
    ("cost", "-0.5", "negative_cost", "1 row with a negative cost, e.g. -0.5 (row 2)"),
    ("cost", "cheap", "not_a_number", "1 row with no finite number, e.g. 'cheap' (row 2)"),
    ("cost", "inf", "not_a_number", "no finite number, e.g. inf (row 2)"),
    ("cost", "", "missing_value", "without a value"),
    ("click", "2", "not_binary", "1 row with neither 0 nor 1, e.g. 2 (row 2)"),
    ("conversion", "0.5", "not_binary", "neither 0 nor 1, e.g. 0.5 (row 2)"),
    ("user_id", " ", "missing_value", "without a value"),
    ("hour", "", "missing_value", "without a value"),
    ("hour", "noon", "not_a_number", "e.g. 'noon' (row 2)"),
    ("age", "", "missing_value", "without a value"),
    (
        "age",
        "25-34",
        "changing_static",
        "with another value than the user's first, in a static column, e.g. '25-34' (row 2)",
    ),
    (
        "timestamp",
        "2024-05-03T10:00:00Z",
        "duplicate_touchpoint",
        "1 row with a duplicate time (one that another touchpoint of the same user has)",
    ),
]


@pytest.mark.parametrize(("column", "value", "rule", "message"), FAULTS)
def test_a_bad_row_is_named_and_quarantined(ingest, column, value, rule, message):
    frame = rows()
    frame.loc[1, column] = value
    with pytest.raises(LogError) as caught:
        ingest(frame)
    text = str(caught.value)
    assert f"{ingest.path}: 1 of 6 rows can't be used" in text
    assert f"{ingest.path}: column {column!r}: 1 row" in text and message in text
    assert str(ingest.quarantine) in text and "--bad-rows quarantine" in text
    assert not ingest.out.exists()
    side = pd.read_csv(ingest.quarantine, dtype=str, keep_default_na=False)
    assert side["row"].tolist() == ["2"] and side["fault"].tolist() == [f"{rule} ({column})"]
    assert side.loc[0, "campaign_id"] == "spring"
    if column == "timestamp":
        assert side.loc[0, column] == value  # as it was

    report = ingest(frame, "quarantine")
    assert (report.rows, report.users, report.quarantined) == (5, 2, 1)
    assert [(f.rule, f.column, f.count, f.row) for f in report.faults] == [(rule, column, 1, 2)]
    assert len(pd.read_parquet(ingest.out)) == 5


def test_a_user_with_one_touchpoint_is_a_fault_unless_the_data_set_allows_it(ingest):
    frame = rows().iloc[:4]
    with pytest.raises(
        LogError, match=r"column 'user_id': 1 row of users with too few touchpoints, e.g. 'b' \(row 4\); at"
    ):
        ingest(frame)
    assert ingest(frame, "quarantine").users == 1
    assert ingest(frame, spec=DatasetSpec.from_dict({**SPEC.to_dict(), "min_touchpoints": 1})).users == 2


def test_a_user_left_with_one_good_touchpoint_is_a_fault(ingest):
    frame = rows()
    frame.loc[[4, 5], "cost"] = "-1"
    report = ingest(frame, "quarantine")
    assert [(f.rule, f.count) for f in report.faults] == [("negative_cost", 2), ("single_touchpoint", 1)]
    assert (report.rows, report.quarantined) == (3, 3)


def test_all_faults_are_listed_and_a_row_has_all_its_reasons(ingest):
    frame = rows()
    frame.loc[0, ["channel", "cost", "hour"]] = ["tv", "-1", "x"]
    frame.loc[3, "cost"] = "-2"
    with pytest.raises(LogError) as caught:
        ingest(frame)
    text = str(caught.value)
    assert "2 of 6 rows" in text and "column 'cost': 2 rows with a negative cost, e.g. -1.0 (row 1)" in text
    assert "column 'channel'" in text and "column 'hour'" in text
    reasons = pd.read_csv(ingest.quarantine)["fault"].tolist()
    assert reasons == ["unknown_channel (channel); negative_cost (cost); not_a_number (hour)", "negative_cost (cost)"]


def test_repeated_lines_keep_the_first(ingest):
    frame = pd.concat([rows(), rows().iloc[[2]]], ignore_index=True)
    report = ingest(frame, "quarantine")
    assert [(f.rule, f.count, f.row) for f in report.faults] == [("duplicate_touchpoint", 1, 7)]
    assert report.rows == 6


def test_times_less_than_a_microsecond_apart_are_duplicates(ingest):
    frame = rows()
    frame.loc[[0, 1], "timestamp"] = ["2024-05-01T10:00:00.0000001Z", "2024-05-01T10:00:00.0000002Z"]
    assert ingest(frame, "quarantine").faults[0].rule == "duplicate_touchpoint"


def test_times_without_a_zone_are_utc_and_others_are_converted(ingest):
    frame = rows()
    frame.loc[0, "timestamp"] = "2024-05-03 12:00:00+02:00"
    frame.loc[3, "timestamp"] = "2024-05-01 10:00:00"
    ingest(frame)
    assert (pd.read_parquet(ingest.out)["timestamp"].dt.hour == 10).all()


def test_no_good_row_is_an_error_even_in_quarantine_mode(ingest):
    with pytest.raises(LogError, match="Not one good row is left: is this really a 'shop' log"):
        ingest(rows().assign(channel="tv"), "quarantine")
    assert not ingest.out.exists() and len(pd.read_csv(ingest.quarantine)) == 6


def test_an_old_quarantine_file_does_not_survive_a_good_log(ingest):
    ingest(rows().assign(cost=["-1"] + ["1"] * 5), "quarantine")
    assert ingest.quarantine.exists()
    ingest(rows())
    assert not ingest.quarantine.exists()


def test_a_failed_write_leaves_the_old_file(ingest, monkeypatch):
    ingest(rows())
    before = ingest.out.read_bytes()

    def broken(table, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("mtorl.log.pq.write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        ingest(rows())
    assert ingest.out.read_bytes() == before and os.listdir(ingest.out.parent) == ["log.parquet"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", None, "no such file"),
        ("log.csv", b"", "the file is empty"),
        ("log.csv", np.random.default_rng(0).bytes(2000), r"not a readable CSV file|not a 'shop' log"),
        ("log.csv", b"\xff\xfe\x00\x01" * 50, "not a readable CSV file"),
        ("log.csv.gz", b"not gzip at all", "not a readable CSV file"),
        ("log.csv.gz", gzip.compress(b"user_id,timestamp\n" * 100)[:-20], "not a readable CSV file|not a 'shop' log"),
        ("log.parquet", b"PAR1 rubbish", "not a readable Parquet file"),
        ("log.xlsx", b"PK", r"unknown kind of file; expected .csv, .csv.gz or .parquet"),
    ],
)
def test_a_file_that_is_no_log_is_refused_in_one_message(ingest, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LogError, match=message) as caught:
        ingest(None, name=name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert not ingest.out.exists() and not ingest.quarantine.exists()


def test_a_header_alone_and_ragged_lines_are_refused(ingest):
    with pytest.raises(LogError, match="the file has columns but no rows"):
        ingest(rows().iloc[:0])
    rows().to_csv(ingest.path, index=False)
    good = ingest.path.read_text()
    ingest.path.write_text(good + good.splitlines()[1] + ",one more\n")
    with pytest.raises(LogError, match=r"not a readable CSV file: .*line 8"):
        ingest(None)
    lines = good.splitlines()
    ingest.path.write_text("\n".join([lines[0], *(line + ",one more" for line in lines[1:])]))
    with pytest.raises(LogError, match="not a readable CSV file: Length of header"):
        ingest(None)


def test_missing_and_misspelt_columns_are_named(ingest):
    with pytest.raises(LogError) as caught:
        ingest(rows().rename(columns={"channel": "chanel"}).drop(columns="cost"))
    text = str(caught.value)
    assert f"{ingest.path}: not a 'shop' log: a small log" in text
    assert "missing columns: channel, cost" in text and "did you mean 'chanel' to be 'channel'?" in text
    header = ",".join([*rows().columns, "cost"])
    ingest.path.write_text(header + "\n" + ",".join(["1"] * len(header.split(","))))
    with pytest.raises(LogError, match="column 'cost' appears twice"):
        ingest(None)


def test_further_columns_are_ignored(ingest):
    assert ingest(rows().assign(note="x")).fingerprint == ingest(rows()).fingerprint


def test_propensity_is_needed_where_the_data_set_says_it_is_logged(ingest):
    logged = DatasetSpec.from_dict({**SPEC.to_dict(), "propensity": "logged"})
    with pytest.raises(LogError, match="missing columns: propensity"):
        ingest(rows(), spec=logged)
    with pytest.raises(LogError) as caught:
        ingest(rows().assign(propensity=["0.5", "0", "1.2", "", "1", "0.1"]), spec=logged)
    assert "2 rows with a propensity outside (0, 1], e.g. 0.0 (row 2)" in str(caught.value)
    assert "column 'propensity': 1 row without a value, e.g. row 4" in str(caught.value)


def test_on_bad_rows_has_two_values(ingest):
    with pytest.raises(ValueError, match="on_bad_rows: 'ignore' is not one of fail, quarantine"):
        ingest(rows(), "ignore")


def test_many_faults_are_all_found(tmp_path):
    users = np.repeat(np.arange(20_000), 5)
    big = rows().iloc[[0] * len(users)].assign(user_id=users.astype(str), cost="1", age="65+")
    big["timestamp"] = (
        pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(np.arange(len(users)), unit="min")
    ).strftime("%Y-%m-%dT%H:%M:%SZ")
    big.iloc[::7, big.columns.get_loc("cost")] = "x"
    found = validate(big, SPEC, "big.csv")
    assert found.faults[0].count == len(found.bad) == len(big.iloc[::7])


def test_fingerprint_sees_every_change():
    log = validate(rows(), SPEC, "x").good
    same = log.copy()
    assert fingerprint(same) == fingerprint(log)
    changes = {
        "user_id": "x",
        "device": None,
        "cost": 9.0,
        "click": 1 - log["click"][1],
        "timestamp": log["timestamp"][0],
    }
    for name, value in changes.items():
        other = log.copy()
        other.loc[1, name] = value
        assert fingerprint(other) != fingerprint(log), name


def test_write_log_enforces_the_schema(tmp_path):
    log = validate(rows(), SPEC, "x").good
    write_log(log, tmp_path / "a.parquet", SPEC)
    assert list(schema(SPEC).names) == list(SPEC.columns)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), log)
    with pytest.raises(LogError, match="the log to write lacks click"):
        write_log(log.drop(columns="click"), tmp_path / "b.parquet", SPEC)


# ---- the MTORL authors' samples

real = pytest.mark.skipif(
    not REAL.is_dir(), reason="needs the authors' samples in ../shared/data beside the repository"
)
SAMPLES = [("kuairand", 105_936, 5_063), ("criteo", 92_399, 6_235)]


@real
@pytest.mark.parametrize(("name", "count", "users"), SAMPLES)
def test_a_real_sample_has_no_fault(tmp_path, name, count, users):
    spec = DatasetSpec.load(f"{name}-sequence")
    report = ingest_log(REAL / f"{name}_sequence.csv.gz", spec, tmp_path / "log.parquet", tmp_path / "q.csv")
    assert (report.rows, report.users, report.quarantined, report.faults) == (count, users, 0, ())
    log = pd.read_parquet(tmp_path / "log.parquet")
    assert log.groupby("user_id")["timestamp"].diff().dropna().min() >= pd.Timedelta("1us")
    assert set(log["channel"]) == set(spec.channels)
    assert log["propensity"].isna().all() and log.drop(columns="propensity").notna().all().all()


@real
@pytest.mark.parametrize(("name", "other"), [("kuairand", "criteo"), ("criteo", "kuairand")])
def test_the_wrong_real_sample_is_recognised(name, other):
    with pytest.raises(LogError) as caught:
        read_log(REAL / f"{name}_sequence.csv.gz", DatasetSpec.load(f"{other}-sequence"))
    text = str(caught.value)
    assert f"not a '{other}-sequence' log" in text and "missing columns:" in text
    assert f"the file looks like data set '{name}-sequence'" in text


def kuairand(count: int = 6) -> pd.DataFrame:
    """Rows in the layout of the authors' KuaiRand sample."""
    spec = DatasetSpec.load("kuairand-sequence")
    frame = pd.DataFrame({"user_id": ["2.0"] * 3 + ["5.0"] * 3, "time_ms": [0.1, 0.1, 0.1 + 1e-13, 0.2, 0.3, 0.4]})
    frame = frame.assign(is_click=0.0, long_view=0.0, play_time_ms=0.5, hourmin=0.5, full_active=1.0)
    frame = frame.assign(short=[1.0, 0, 0] * 2, mid=[0.0, 1, 0] * 2, long=[0.0, 0, 1] * 2)
    flags = ["2_14_day_new", "30day_retention", "UNKNOWN", "day_new", "high_active", "low_active", "middle_active"]
    frame[[*flags, "single_low_active"]] = 0.0
    frame[[c.name for c in spec.static if c.name != "activity"]] = 0.25
    frame.insert(0, "", range(100, 106))
    return frame.iloc[:count]


def test_kuairand_ties_in_time_are_put_in_file_order(ingest):
    spec = DatasetSpec.load("kuairand-sequence")
    ingest(kuairand(), spec=spec)
    log = pd.read_parquet(ingest.out)
    assert log["user_id"].tolist() == ["2"] * 3 + ["5"] * 3
    assert log["channel"].tolist() == ["short", "mid", "long"] * 2
    assert log["timestamp"].diff().iloc[1:3].tolist() == [pd.Timedelta("1us")] * 2
    assert log["timestamp"][0] == pd.Timestamp("2024-01-04", tz="UTC")  # .1 of 30 days
    assert set(log["activity"]) == {"full_active"} and (log["cost"] == 1).all()


def test_kuairand_faults_are_told_in_the_files_own_words(ingest):
    spec = DatasetSpec.load("kuairand-sequence")
    frame = kuairand().astype(object)
    frame.loc[0, "time_ms"] = "soon"
    frame.loc[1, "mid"] = 0.0
    frame.loc[2, "full_active"] = 0.0
    frame.loc[[3], ""] = 104  # a repeated row index at the same time ...
    frame.loc[[3], "time_ms"] = frame.loc[4, "time_ms"]
    with pytest.raises(LogError) as caught:
        ingest(frame, spec=spec)
    text = str(caught.value)
    assert "column 'time_ms': 1 row with an unparsable timestamp, e.g. 'soon' (row 1)" in text
    assert "column 'short, mid, long': 1 row with an unknown channel, e.g. '0 of 3 one-hot columns set' (row 2)" in text
    assert "column '2_14_day_new ... single_low_active': 1 row without a value, e.g. row 3" in text
    assert "column 'time_ms': 1 row with a duplicate time" in text  # ... is a repeated touchpoint
    assert "long_view" in pd.read_csv(ingest.quarantine)


def test_criteo_time_is_the_row_index(ingest):
    spec = DatasetSpec.load("criteo-sequence")
    frame = pd.DataFrame({"": [8, 10, 12, 27], "uid": [22, 29, 22, 29], "campaign": [0.8, 0.5, 0.8, 0.5]})
    frame = frame.assign(conversion=0, click=1, cost=0.01)
    frame[[c.name for c in spec.context]] = 0.5
    for i, name in enumerate(spec.channels):
        frame[name] = [i == 3, i == 0, i == 3, i == 10]
    ingest(frame, spec=spec)
    log = pd.read_parquet(ingest.out)
    assert log["timestamp"].dt.second.tolist() == [8, 12, 10, 27]
    assert log["channel"].tolist() == [spec.channels[i] for i in (3, 3, 0, 10)]
    assert log["campaign_id"].tolist() == ["c1", "c1", "c0", "c0"]
    with pytest.raises(LogError, match=r"missing columns: the unnamed first column \(row index\), cat7"):
        ingest(frame.drop(columns=["", "cat7"]), spec=spec)
    broken = frame.astype(object)
    broken.loc[0, [spec.channels[3], "campaign"]] = ["maybe", None]
    with pytest.raises(LogError) as caught:
        ingest(broken, spec=spec)
    assert "column 'Type_*': 1 row with an unknown channel, e.g. '0 of 11 one-hot columns set' (row 1)" in str(
        caught.value
    )
    assert "column 'campaign': 1 row without a value, e.g. row 1" in str(caught.value)
