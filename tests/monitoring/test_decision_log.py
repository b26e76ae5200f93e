"""The decisions of a period: bounds, copies and withdrawn decisions, what the policy read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from monitoring.decision_log import DecisionLog, Period, database, open_records
from mtorl.log.touchpoints import LogError

TIMES = [f"2025-03-01T00:0{minute}:00+00:00" for minute in range(4)]


def write(folder: Path, contexts: Iterable[dict[str, Any]], users: Iterable[str] = (), **columns: Any) -> DecisionLog:
    """A decision for each context, of a user each if none are named, at `TIMES` if none are named."""
    named = list(users)
    rows = [
        {"decision_id": f"d{i}", "user_id": named[i] if named else f"u{i}", "context": json.dumps(context)}
        for i, context in enumerate(contexts)
    ]
    times = {"event_time": TIMES[: len(rows)] if len(rows) <= len(TIMES) else TIMES[0]}
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).assign(**{"withdrawn": False, **times, **columns}).to_parquet(folder / "decisions.parquet")
    return DecisionLog.in_folder(folder)


@pytest.fixture
def log(tmp_path: Path) -> DecisionLog:
    """Four decisions, a copy of the second, and a withdrawal of the fourth."""
    written = write(tmp_path, ({"hour": hour, "device": None if hour == 2 else "tv"} for hour in range(4)))
    rows = pd.read_parquet(written.decisions[0])
    pd.concat([rows, rows.iloc[[1]], rows.iloc[[3]].assign(withdrawn=True)]).to_parquet(written.decisions[0])
    return written


@pytest.mark.parametrize(
    ("period", "hours"),
    [
        (Period(), [0, 1, 2, 3]),
        (Period(since=TIMES[1]), [1, 2, 3]),
        (Period(until=TIMES[2]), [0, 1]),
        (Period(TIMES[1], TIMES[2]), [1]),
        (Period("2025-03-01T01:02:00+01:00", "2025-03-02T00:00:00Z"), [2, 3]),
        (Period("2026-01-01T00:00:00Z"), []),
    ],
)
def test_a_period_includes_its_start_and_not_its_end(log: DecisionLog, period: Period, hours: list[int]) -> None:
    context = replace(log, period=period).context(100)[0]
    assert [f"u{hour}" for hour in hours] == context["user_id"].tolist()
    if hours:
        assert context["hour"].tolist() == hours
        assert context["device"].isna().tolist() == [hour == 2 for hour in hours], "what is missing stays missing"


def test_models_are_the_challengers_then_those_of_other_arms_then_the_shadows(tmp_path: Path) -> None:
    def newest(*rows: tuple[str, str | None]) -> list[str]:
        decisions = [
            {"arm": arm, "model_digest": digest, "withdrawn": False, "override": False, "event_time": time}
            for (arm, digest), time in zip(rows, TIMES, strict=False)
        ]
        pd.DataFrame(decisions).astype({"model_digest": "string"}).to_parquet(tmp_path / "decisions.parquet")
        return DecisionLog.in_folder(tmp_path, Period(until=TIMES[3])).models()

    assert newest(("challenger", "old"), ("challenger", "new"), ("incumbent", "other")) == ["new", "old", "other"]
    assert newest(("challenger", "old"), ("challenger", None), ("incumbent", "other")) == ["old", "other"]
    assert newest(("incumbent", "old"), ("incumbent", "new")) == ["new", "old"]  # the shadow stage
    assert newest(("challenger", None), ("incumbent", None)) == []
    rows = [("incumbent", "a"), ("incumbent", "b"), ("incumbent", "c"), ("challenger", "after the period")]
    assert newest(*rows) == ["c", "b", "a"]
    shadow = {"arm": "challenger", "model_digest": "asked", "event_time": TIMES[0], "decision_id": "d"}
    pd.DataFrame([shadow]).to_parquet(tmp_path / "shadows.parquet")
    assert newest(("incumbent", None), ("incumbent", None)) == ["asked"]
    assert newest(("incumbent", "old")) == ["old", "asked"]


def test_the_logs_of_several_routers_are_one(tmp_path: Path) -> None:
    """Each router exports into a folder of its own; the folder itself may hold the export of one of them."""
    rows = pd.read_parquet(write(tmp_path, [{}] * 4).decisions[0])
    for folder, some in ((tmp_path, rows[:2]), (tmp_path / "router-0", rows[:3]), (tmp_path / "router-1", rows[3:])):
        folder.mkdir(exist_ok=True)
        some.to_parquet(folder / "decisions.parquet")
    log = DecisionLog.in_folder(tmp_path)
    assert log.holds_any() and log.context(100)[0]["user_id"].tolist() == ["u0", "u1", "u2", "u3"]


def test_a_record_of_another_version_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="schema version 2"):
        write(tmp_path, [{}, {}], schema_version=[1, 2]).context(100)


def test_of_a_large_period_a_sample_of_whole_users_is_read(tmp_path: Path) -> None:
    log = write(tmp_path, ({"hour": i // 400} for i in range(2000)), [f"u{i % 400}" for i in range(2000)])
    rows = pd.read_parquet(log.decisions[0])
    pd.concat([rows, rows[:100]]).to_parquet(log.decisions[0])
    sample, whole = log.context(500)
    assert whole == (400, 2000), "each decision once"
    assert 300 < len(sample) < 700
    assert set(sample.groupby("user_id").size()) == {5}, "all rows of a user"
    later, _ = log.context(1000)
    assert set(sample["user_id"]) < set(later["user_id"]), "the same users in every period"


def test_a_short_period_of_a_long_log_is_read_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check comes every hour, and the log grows for weeks."""
    rows, days = 600_000, 30
    with duckdb.connect() as db:
        db.execute(
            f"""COPY (SELECT md5(range::VARCHAR) AS decision_id, 'u' || range % 5000 AS user_id, false AS withdrawn,
            '{{"hour": 1}}' AS context,
            TIMESTAMPTZ '2025-03-01 00:00+00' + INTERVAL {days * 86400 / rows} SECOND * range AS event_time
            FROM range({rows})) TO '{tmp_path / "decisions.parquet"}'"""
        )
    monkeypatch.setattr("monitoring.decision_log._MEMORY_LIMIT", "32MB")
    day = Period("2025-03-30T00:00:00Z", "2025-03-31T00:00:00Z")
    sample, whole = DecisionLog.in_folder(tmp_path, day).context(1000)
    assert whole.rows == rows / days and 500 < len(sample) < 1500
    with pytest.raises(duckdb.OutOfMemoryException):
        DecisionLog.in_folder(tmp_path).context(1000)


def test_what_does_not_fit_into_memory_is_not_written_to_the_current_folder() -> None:
    """It may be read-only."""
    with database() as db:
        row = db.execute("SELECT current_setting('temp_directory'), current_setting('TimeZone')").fetchone()
    assert row is not None
    assert Path(row[0]).parent == Path(tempfile.gettempdir()) and row[1] == "UTC"


def test_one_id_for_many_visitors_is_not_the_whole_sample(tmp_path: Path) -> None:
    users = [f"u{i // 5}" for i in range(1000)] + ["anonymous"] * 4000
    sample, whole = write(tmp_path, [{}] * 5000, users).context(5000)
    assert whole == (201, 5000), "the period is as large as it is"
    assert sample.groupby("user_id").size().to_dict() == {**{f"u{i}": 5 for i in range(200)}, "anonymous": 250}


def test_decisions_from_before_a_column_was_added_do_not_count(tmp_path: Path) -> None:
    """Else the column would seem to have lost its values for as long as a period lasts."""
    log = write(tmp_path, [{"hour": 1}, {"hour": 2, "tv": None}, {"tv": "on", "hour": 3}])
    read, size = log.context(100)
    assert size == (2, 2) and read["user_id"].tolist() == ["u1", "u2"] and read["hour"].tolist() == [2, 3]
    read, size = replace(log, period=Period(until=TIMES[1])).context(100)
    assert size == (1, 1) and read.columns.tolist() == ["user_id", "hour"]


def test_a_withdrawal_after_the_end_of_a_period_counts_in_it(tmp_path: Path) -> None:
    log = write(tmp_path, [{}, {}], decision_id="d", user_id="u", withdrawn=[False, True])
    until, since = Period(until=TIMES[1]), Period(since=TIMES[1])
    assert [replace(log, period=period).context(9)[1].rows for period in (until, since)] == [0, 1]


def test_a_full_disk_is_one_error_that_names_the_folder_for_temporary_files() -> None:
    """DuckDB's own error is none of the system's, and the folder is gone by the time that somebody reads it."""
    with pytest.raises(OSError, match=f"No space left on device: '{tempfile.gettempdir()}'"), database():
        raise duckdb.IOException('IO Error: Could not write file "/tmp/x/tables": No space left on device')


def exported(folder: Path, segment: str, *ids: str) -> Path:
    target = folder / "router" / segment / "decisions.parquet"
    target.parent.mkdir(parents=True)
    pd.DataFrame({"decision_id": ids}).to_parquet(target)
    return target


def test_an_export_while_somebody_reads_makes_no_record_twice_and_takes_none_away(tmp_path: Path) -> None:
    """A verdict reads its log several times: of ids that the first query had found once, the second found two."""
    superseded = exported(tmp_path, "decision-00000001-99", "d0")
    exported(tmp_path, "decision-00000001-100", "d0", "d1")
    exported(tmp_path, "decision-00000002-7", "d2")
    exported(tmp_path, "2026-11-01", "d3")
    exported(tmp_path, "2026-11-02", "d4")  # somebody's own folders
    log = DecisionLog.in_folder(tmp_path)
    for _ in range(2):  # a verdict, and its lifts by segment
        with database() as db:
            open_records(db, "decision", log.decisions).create_view("decision_log")
            superseded.unlink(missing_ok=True)
            if not (tmp_path / "router" / "decision-00000002-8").exists():
                exported(tmp_path, "decision-00000002-8", "d2", "d5")
            found = db.sql("SELECT decision_id FROM decision_log ORDER BY 1").fetchall()
        assert found == [(f"d{i}",) for i in range(5)]


def test_a_file_that_is_removed_while_it_is_read_is_one_error_that_names_it(tmp_path: Path) -> None:
    """Two exports in the time that a verdict takes: the first one supersedes a file, the second one removes it."""
    first, second = (exported(tmp_path, f"decision-0000000{n}-9", f"d{n}") for n in (1, 2))
    log = DecisionLog.in_folder(tmp_path)
    said = f"{second}: removed while it was read, .* try again"
    with pytest.raises(LogError, match=said), database() as db:
        open_records(db, "decision", log.decisions).create_view("decision_log")
        second.unlink()
        db.sql("FROM decision_log").fetchall()
    with pytest.raises(LogError, match=said):
        log.models()
    first.write_bytes(b"no Parquet")
    with pytest.raises(duckdb.Error), database() as db:
        open_records(db, "decision", (first,))
