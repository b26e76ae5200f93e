import csv
import errno
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from features import messages
from features.ingest.adapters.files import MissingColumns
from features.ingest.draft import draft_description
from features.ingest.ingest import LogError, validate_log
from tests.features.shop_log import SPEC, rows
from tests.messages import raises

GZIP_CUT_SHORT = gzip.compress(b"user_id,timestamp\n" * 100, mtime=0)[:-20]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", None, messages.NO_FILE),
        ("log.csv", b"", messages.EMPTY_FILE),
        ("log.csv", ",".join(rows()).encode(), messages.NO_ROWS),
        ("log.csv", b"\xff\xfe\x00\x01" * 50, messages.UNREADABLE),
        ("log.csv.gz", b"not gzip at all", messages.UNREADABLE),
        ("log.csv.gz", GZIP_CUT_SHORT, messages.MISSING_COLUMNS),
        ("log.csv", b'user_id,"time', messages.UNREADABLE),
        ("log.parquet", b"PAR1 rubbish", messages.UNREADABLE),
        ("log.json", b"[]", messages.UNKNOWN_KIND),
    ],
)
def test_an_invalid_file_is_refused_with_one_message(ingest, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with raises(LogError, message, file=tmp_path / name):
        ingest(None, name=name)
    assert not ingest.out.exists() and not ingest.quarantine.exists()


def test_a_byte_order_mark_windows_lines_and_quoted_values_are_fine(ingest):
    wanted = ingest(rows()).fingerprint
    text = rows().to_csv(index=False, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    ingest.path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert ingest(None).fingerprint == wanted


def test_missing_and_misspelt_columns_are_named(ingest):
    with raises(MissingColumns, messages.MISSING_COLUMNS, missing=["channel", "cost"]):
        ingest(rows().rename(columns={"channel": "chanel"}).drop(columns="cost"))
    header = ",".join([*rows().columns, "cost"])
    ingest.path.write_text(header + "\n" + ",".join(["1"] * len(header.split(","))))
    with raises(LogError, messages.SAME_COLUMNS, columns=["cost", "cost"]):
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
    with raises(LogError, messages.OTHER_COLUMNS if kind == "csv" else messages.MIXED_KINDS, folder=folder):
        ingest(None, name="parts")
    (tmp_path / "none").mkdir()
    with raises(LogError, messages.NO_LOG_FILES):
        ingest(None, name="none")


def test_used_columns_that_differ_only_in_case_are_refused(ingest):
    assert ingest(rows().assign(NOTE="x", note="y")).rows == 6
    with raises(LogError, messages.SAME_COLUMNS, columns=["cost", "Cost"]):
        ingest(rows().assign(Cost="1"))


@pytest.mark.parametrize("read", [draft_description, lambda path: validate_log(path, SPEC)])
def test_a_full_tmpdir_is_named(read: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise duckdb.IOException('Could not write file "0.parquet": No space left on device')

    path = tmp_path / "log.csv"
    rows().to_csv(path, index=False)
    monkeypatch.setattr("features.ingest.adapters.files._as_parquet", full)
    with pytest.raises(OSError) as caught:
        read(path)
    assert caught.value.errno == errno.ENOSPC and "/mtorl-" in caught.value.filename
