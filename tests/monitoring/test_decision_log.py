import itertools
import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from features.collect.compact import compact
from monitoring.decision_log import DecisionLog, Period
from mtorl.log.lake import Lake
from mtorl.log.touchpoints import LogError
from tests.lakes import upload

TIMES = [f"2025-03-01T00:0{minute}:00+00:00" for minute in range(4)]


def write(folder: Path, contexts: Iterable[dict[str, Any]], users: Iterable[str] = (), **columns: Any) -> DecisionLog:
    """Write one decision per context at the times `TIMES`, by default each with a new user."""
    named = list(users)
    rows = [
        {"decision_id": f"d{i}", "user_id": named[i] if named else f"u{i}", "context": json.dumps(context)}
        for i, context in enumerate(contexts)
    ]
    times = {"event_time": TIMES[: len(rows)] if len(rows) <= len(TIMES) else TIMES[0]}
    table = pd.DataFrame(rows).assign(**{"withdrawn": False, **times, **columns})
    return DecisionLog.of(upload(folder, {"decision": table}))


@pytest.fixture
def log(tmp_path: Path) -> DecisionLog:
    """Return a log of four decisions; the second is duplicated, the fourth withdrawn."""
    contexts = [{"hour": hour, "device": None if hour == 2 else "tv"} for hour in range(4)]
    write(tmp_path, contexts)
    again = pd.DataFrame({"decision_id": ["d1", "d3"], "user_id": ["u1", "u3"], "withdrawn": [False, True]})
    texts = [json.dumps(contexts[1]), json.dumps(contexts[3])]
    return DecisionLog.of(upload(tmp_path, {"decision": again.assign(context=texts, event_time=[TIMES[1], TIMES[3]])}))


@pytest.mark.parametrize(
    ("period", "hours"),
    [
        (Period(), [0, 1, 2, 3]),
        (Period.of(since=TIMES[1]), [1, 2, 3]),
        (Period.of(until=TIMES[2]), [0, 1]),
        (Period.of(TIMES[1], TIMES[2]), [1]),
        (Period.of("2025-03-01T01:02:00+01:00", "2025-03-02T00:00:00Z"), [2, 3]),
        (Period.of("2026-01-01T00:00:00Z"), []),
    ],
)
def test_a_period_includes_its_start_and_not_its_end(log: DecisionLog, period: Period, hours: list[int]) -> None:
    context = replace(log, period=period).sample("context", 100)[0]
    assert [f"u{hour}" for hour in hours] == context["user_id"].tolist()
    if hours:
        assert context["hour"].tolist() == hours
        assert context["device"].isna().tolist() == [hour == 2 for hour in hours], "missing values stay missing"


def test_models_are_ordered_challenger_then_other_arms_then_shadow(tmp_path: Path) -> None:
    numbers = itertools.count()

    def newest(*rows: tuple[str, str | None], shadow: str | None = None) -> list[str]:
        lake = Lake.open(tmp_path / str(next(numbers)))
        decisions = [
            {"decision_id": time, "arm": arm, "model_digest": digest, "withdrawn": False, "event_time": time}
            for (arm, digest), time in zip(rows, TIMES, strict=False)
        ]
        upload(lake, {"decision": pd.DataFrame(decisions).astype(object)})
        if shadow:
            asked = {"arm": "challenger", "model_digest": shadow, "event_time": TIMES[0], "decision_id": "d"}
            upload(lake, {"shadow": pd.DataFrame([asked])})
        return DecisionLog.of(lake, Period.of(until=TIMES[3])).models()

    assert newest(("challenger", "old"), ("challenger", "new"), ("incumbent", "other")) == ["new", "old", "other"]
    assert newest(("challenger", "old"), ("challenger", None), ("incumbent", "other")) == ["old", "other"]
    assert newest(("incumbent", "old"), ("incumbent", "new")) == ["new", "old"]  # as in the shadow stage
    assert newest(("challenger", None), ("incumbent", None)) == []
    rows = [("incumbent", "a"), ("incumbent", "b"), ("incumbent", "c"), ("challenger", "after the period")]
    assert newest(*rows) == ["c", "b", "a"]
    assert newest(("incumbent", None), ("incumbent", None), shadow="asked") == ["asked"]
    assert newest(("incumbent", "old"), shadow="asked") == ["old", "asked"]


def test_a_large_period_is_read_as_a_sample_of_whole_users(tmp_path: Path) -> None:
    contexts = [{"hour": i // 400} for i in range(2000)]
    users = [f"u{i % 400}" for i in range(2000)]
    write(tmp_path, contexts[:100], users)
    log = write(tmp_path, contexts, users)
    sample, whole = log.sample("context", 500)
    assert whole == (400, 2000), "count each decision once"
    assert 300 < len(sample) < 700
    assert set(sample.groupby("user_id").size()) == {5}, "sample whole users"
    later, _ = log.sample("context", 1000)
    assert set(sample["user_id"]) < set(later["user_id"]), "samples must be nested"


def test_only_the_files_of_the_period_are_read(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    for day in range(1, 5):
        at = f"2025-03-0{day}T12:00:00+00:00"
        write(tmp_path, [{"hour": day}], event_time=at, decision_id=f"d{day}")
        compact(lake, datetime(2025, 3, day, 14, tzinfo=UTC))
    for file in lake.closed("decision"):
        if file.hour.day != 3:
            (tmp_path / file.name).write_bytes(b"not Parquet")
    for since, until in (("2025-03-03T00:00:00Z", "2025-03-04T00:00:00Z"), ("2025-03-03", "2025-03-04T11:00")):
        log = DecisionLog.of(lake, Period.of(since, until))
        assert log.sample("context", 1000)[0]["hour"].tolist() == [3] and log.records() == 1 and log.models() == []
    with pytest.raises(LogError, match=r"decisions/date=2025-03-0"):
        DecisionLog.of(lake).sample("context", 1000)


def test_one_user_id_shared_by_many_visitors_does_not_fill_the_sample(tmp_path: Path) -> None:
    users = [f"u{i // 5}" for i in range(1000)] + ["anonymous"] * 4000
    sample, whole = write(tmp_path, [{}] * 5000, users).sample("context", 5000)
    assert whole == (201, 5000), "the true size is reported"
    assert sample.groupby("user_id").size().to_dict() == {**{f"u{i}": 5 for i in range(200)}, "anonymous": 250}


def test_decisions_from_before_a_column_was_added_do_not_count(tmp_path: Path) -> None:
    log = write(tmp_path, [{"hour": 1}, {"hour": 2, "tv": None}, {"tv": "on", "hour": 3}])
    read, size = log.sample("context", 100)
    assert size == (2, 2) and read["user_id"].tolist() == ["u1", "u2"] and read["hour"].tolist() == [2, 3]
    read, size = replace(log, period=Period.of(until=TIMES[1])).sample("context", 100)
    assert size == (1, 1) and read.columns.tolist() == ["user_id", "hour"]


def test_a_withdrawal_after_the_end_of_a_period_counts_in_it(tmp_path: Path) -> None:
    log = write(tmp_path, [{}, {}], decision_id="d", user_id="u", withdrawn=[False, True])
    until, since = Period.of(until=TIMES[1]), Period.of(since=TIMES[1])
    assert [replace(log, period=period).sample("context", 9)[1].rows for period in (until, since)] == [0, 1]


def test_a_full_disk_is_one_error_that_names_the_folder_for_temporary_files(log: DecisionLog) -> None:
    """DuckDB's error has no number, and the temporary folder is gone when the error is reported."""
    with pytest.raises(OSError, match=f"No space .*{tempfile.gettempdir()}"), log.opened():
        raise duckdb.IOException('IO Error: Could not write file "/tmp/x/tables": No space left on device')


def test_an_upload_does_not_change_a_log_being_read(log: DecisionLog, tmp_path: Path) -> None:
    assert log.records() == 4
    write(tmp_path, [{}] * 5)
    assert log.records() == 4 and DecisionLog.of(tmp_path).records() == 5
