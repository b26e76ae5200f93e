import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError, fingerprint, schema, write_log

SPEC = DatasetSpec.load("simulator")


@pytest.fixture
def log() -> pd.DataFrame:
    n = 5
    frame = pd.DataFrame(
        {
            "user_id": ["a", "a", "bcd", "é", "é"],
            "timestamp": pd.to_datetime(np.arange(n) * 1_000_001, unit="us", utc=True).astype("datetime64[us, UTC]"),
            "campaign_id": "c",
            "channel": ["search", "social", "search", "video", "video"],
            "click": [0, 1, 0, 1, 1],
            "conversion": [0, 0, 0, 0, 1],
            "device": ["mobile", None, "", "tablet", None],
            "placement": "top",
            "age_group": "18-24",
            "region": None,
        }
    )
    numbers = ["cost", "revenue", "propensity", "hour", "tenure_days"]
    frame[numbers] = np.arange(n * len(numbers)).reshape(n, -1) / 7
    frame.loc[2, "propensity"] = np.nan
    return frame[list(SPEC.log_columns)]


def batches(log: pd.DataFrame, size: int) -> list[pa.RecordBatch]:
    return pa.Table.from_pandas(log, preserve_index=False).to_batches(max_chunksize=size)


@given(size=st.integers(1, 6))
def test_the_fingerprint_is_independent_of_batches(size):
    frame = pd.DataFrame({"user_id": ["a", "", None, "bc", "é"], "x": [1.0, np.nan, 3, 4, 5]})
    assert fingerprint(batches(frame, size)) == fingerprint(frame)


def test_the_fingerprint_is_the_same_from_frame_and_file(log, tmp_path):
    write_log(log, tmp_path / "log.parquet", SPEC)
    table = pq.read_table(tmp_path / "log.parquet")
    wanted = fingerprint(log)
    assert fingerprint(pd.read_parquet(tmp_path / "log.parquet")) == wanted
    pq.write_table(table, tmp_path / "cut.parquet", row_group_size=2)
    assert fingerprint(pq.ParquetFile(tmp_path / "cut.parquet").iter_batches(3)) == wanted
    assert fingerprint(log.astype({"channel": "category"})) == wanted
    assert fingerprint(log.astype({"timestamp": "datetime64[ns, UTC]", "click": bool})) == wanted
    odd = log.copy()
    other_nan = np.uint64(0xFFF8000000000001).view("<f8")
    odd["propensity"] = np.where(log["propensity"].isna(), other_nan, log["propensity"])
    assert fingerprint(odd) == wanted  # all NaNs have one fingerprint


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        *((1, "user_id", "x"), (1, "device", "mobile"), (2, "device", None), (0, "device", "mobil"), (1, "cost", 9.0)),
        *((1, "click", 0), (2, "propensity", 0.5), (1, "timestamp", pd.Timestamp(1_000_002, unit="us", tz="UTC"))),
    ],
)
def test_the_fingerprint_changes_with_every_value(log, row, column, value):
    other = log.copy()
    other.loc[row, column] = value
    assert fingerprint(other) != fingerprint(log)


def test_the_fingerprint_separates_adjacent_texts(log):
    a, b = (pd.DataFrame({"user_id": names}) for names in (["ab", "c"], ["a", "bc"]))
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint(log) != fingerprint(log.iloc[::-1])
    assert fingerprint(log) != fingerprint(log[list(log)[::-1]])


def test_write_log_enforces_the_schema(log, tmp_path):
    write_log(log, tmp_path / "new" / "a.parquet", SPEC)
    assert schema(SPEC).names == list(SPEC.log_columns)
    assert pq.read_schema(tmp_path / "new" / "a.parquet").equals(schema(SPEC))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "new" / "a.parquet"), log)
    with pytest.raises(LogError, match="lacks the columns click"):
        write_log(log.drop(columns="click"), tmp_path / "b.parquet", SPEC)


def test_the_arrival_time_of_rows_is_kept(log, tmp_path):
    log["created_timestamp"] = log["timestamp"] + pd.Timedelta("1h")
    write_log(log[list(log)[::-1]], tmp_path / "a.parquet", SPEC)
    assert pq.read_schema(tmp_path / "a.parquet").equals(schema(SPEC, ["created_timestamp"]))
    assert list(pd.read_parquet(tmp_path / "a.parquet"))[-1] == "created_timestamp"
