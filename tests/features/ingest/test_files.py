"""Files that are no log, or not quite: what is read, and what the message says where it can't be."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from features.ingest.adapters.files import MissingColumns
from features.ingest.draft import draft_description
from features.ingest.ingest import LogError, validate_log
from tests.features.shop_log import SPEC, rows

GZIP_CUT_SHORT = gzip.compress(b"user_id,timestamp\n" * 100, mtime=0)[:-20]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", None, "no such file"),
        ("log.csv", b"", "the file is empty"),
        ("log.csv", ",".join(rows()).encode(), "the file has columns but no rows"),
        ("log.csv", b"\xff\xfe\x00\x01" * 50, "not a readable CSV file: it is not UTF-8. Convert it"),
        ("log.csv.gz", b"not gzip at all", "not a readable CSV file"),
        ("log.csv.gz", GZIP_CUT_SHORT, "not a readable CSV file|not a 'shop' log"),
        ("log.csv", b'user_id,"time', "not a readable CSV file: unexpected end of data"),
        ("log.parquet", b"PAR1 rubbish", "not a readable Parquet file"),
        ("log.json", b"[]", r"unknown kind of file; .*; of an array of JSON, jq -c '.\[\]' makes .jsonl"),
        ("log.xlsx", b"PK", r"unknown kind of file; expected .csv, .csv.gz, .tsv, .tsv.gz, .jsonl, .*or .parquet"),
    ],
)
def test_a_file_that_is_no_log_is_refused_in_one_message(ingest, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LogError, match=message) as caught:
        ingest(None, name=name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert not ingest.out.exists() and not ingest.quarantine.exists()


def test_a_byte_order_mark_windows_lines_and_quoted_values_are_fine(ingest):
    wanted = ingest(rows()).fingerprint
    text = rows().to_csv(index=False, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    ingest.path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert ingest(None).fingerprint == wanted


def test_missing_and_misspelt_columns_are_named(ingest):
    with pytest.raises(MissingColumns, match=r"missing columns: channel, cost\n(.*\n)*did you mean 'chanel'"):
        ingest(rows().rename(columns={"channel": "chanel"}).drop(columns="cost"))
    header = ",".join([*rows().columns, "cost"])
    ingest.path.write_text(header + "\n" + ",".join(["1"] * len(header.split(","))))
    with pytest.raises(LogError, match="column 'cost' appears twice"):
        ingest(None)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_parts_of_a_folder_are_one_log(ingest, tmp_path, kind):
    frame, folder = rows().assign(cost=["1"] * 5 + ["-1"]), tmp_path / "parts"
    whole = ingest(frame, "quarantine")
    for i in range(3):
        part, some = folder / f"date=2024-01-0{i + 1}" / f"part.{kind}", frame.iloc[2 * i : 2 * i + 2]
        part.parent.mkdir(parents=True)
        some.to_csv(part, index=False) if kind == "csv" else some.to_parquet(part)
    (folder / "_SUCCESS.csv").touch()
    found = ingest(None, "quarantine", name="parts")
    assert found == whole and found.faults[0].row == 6
    frame[sorted(frame)].to_csv(folder / "other.csv", index=False)
    words = r"its files differ in their columns: part.csv and other.csv|holds \.csv and \.parquet files; a log's folder"
    with pytest.raises(LogError, match=words):
        ingest(None, name="parts")
    (tmp_path / "none").mkdir()
    with pytest.raises(LogError, match=r"none: no \.csv, .* or \.parquet files in this folder"):
        ingest(None, name="none")


def test_columns_that_differ_only_in_case_are_refused_where_it_matters(ingest):
    assert ingest(rows().assign(NOTE="x", note="y")).rows == 6
    with pytest.raises(LogError, match="columns 'cost' and 'Cost' differ only in case; rename one"):
        ingest(rows().assign(Cost="1"))


@pytest.mark.parametrize("read", [draft_description, lambda path: validate_log(path, SPEC)])
def test_a_full_temporary_folder_is_named(
    read: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise duckdb.IOException('Could not write file "0.parquet": No space left on device')

    path = tmp_path / "log.csv"
    rows().to_csv(path, index=False)
    monkeypatch.setattr("features.ingest.adapters.files._as_parquet", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/mtorl-"):
        read(path)
