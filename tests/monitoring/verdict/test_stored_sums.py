"""Tests that a closed hour's sums are computed once, and deleted with the hour's records."""

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest

from features.collect.compact import compact
from features.collect.removal import drop_hours, forget_in_bucket, remove_users
from monitoring.decision_log import DecisionLog
from monitoring.experiments.traffic import spend_of
from monitoring.verdict import stored_sums
from monitoring.verdict.experiment_users import Users, experiment_users
from monitoring.verdict.verdict import CLICK
from mtorl.experiment.experiment import Experiment
from mtorl.log.derived import is_of_past
from mtorl.log.forgotten import Forgotten
from mtorl.log.lake import Lake, LakeFile
from mtorl.log.records import unit_hash
from mtorl.log.touchpoints import LogError
from tests.monitoring.judged_experiment import CONTENT
from tests.monitoring.written_log import BEGIN, Log

FIRST = BEGIN.to_pydatetime()
HOUR = timedelta(hours=1)
EXPERIMENT = Experiment.from_dict({**CONTENT, "metrics": {**CONTENT["metrics"], "outcome_hours": 3.0}})


def _records(hours: range) -> Log:
    """Return six decisions an hour of six users, each with a click two hours later."""
    log = Log()
    for hour in hours:
        for number in range(6):
            at = FIRST + hour * HOUR + timedelta(minutes=9 * number)
            name, user = f"d{hour}-{number}", f"u{number}"
            log.decide(
                user,
                ("incumbent", "challenger")[number % 2],
                decision_id=name,
                event_time=at.isoformat(),
                unit_hash=unit_hash(user),
                salt=EXPERIMENT.salt,
                layer=EXPERIMENT.layer,
            )
            click = (at + 2 * HOUR).isoformat()
            log.learn(name, "click", 1.0, event_id=f"e{hour}-{number}", event_time=click, received_time=click)
    return log


def _click(hour: int, number: int, after: timedelta, name: str) -> Log:
    at = (FIRST + hour * HOUR + timedelta(minutes=9 * number) + after).isoformat()
    log = Log()
    log.outcomes.append(
        {"event_id": name, "decision_id": f"d{hour}-{number}", "kind": "click", "value": 1.0}
        | {"event_time": at, "received_time": at}
    )
    return log


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = _records(range(8)).add_to(tmp_path)
    compact(lake, FIRST + 10 * HOUR)
    return lake


@pytest.fixture
def reduced() -> Iterator[list[datetime]]:
    hours: list[datetime] = []
    reduce = stored_sums._Sums._reduce

    def counting(self: Any, closed: Any, keep: bool) -> None:
        hours.extend(hour.since for hour in closed if keep)
        reduce(self, closed, keep)

    with patch.object(stored_sums._Sums, "_reduce", counting):
        yield hours


def _look(lake: Lake) -> Users:
    with experiment_users(DecisionLog.of(lake), EXPERIMENT, CLICK) as read:
        return read.users()


def _clicks(lake: Lake) -> tuple[float, float]:
    found = _look(lake)
    return tuple(sum(found.of(arm, ((name, 1.0),)) for arm in found.arms) for name in ("plain:click", "late:click"))


def test_a_closed_hour_is_reduced_once(lake: Lake, reduced: list[datetime]) -> None:
    first = _look(lake)
    assert len(reduced) == len(lake.derived("sums")) == 8
    for same in (lake, Lake(lake.files, "s3://ads/lake")):  # a folder, then an object store
        second = _look(same)
        assert len(reduced) == 8
        assert second.sums.products_CBCB == pytest.approx(first.sums.products_CBCB, abs=1e-9)
        assert second.of_arms == first.of_arms


@pytest.mark.parametrize("hour", [4, 0], ids=["just begun to count", "uploaded hours late"])
def test_an_hour_with_a_new_timely_outcome_is_reduced_again(hour: int, lake: Lake, reduced: list[datetime]) -> None:
    before = _clicks(lake)
    reduced.clear()
    _click(hour, 0, 2.5 * HOUR, "in time").add_to(lake)
    compact(lake, FIRST + 10 * HOUR)
    assert _clicks(lake) == (before[0] + 1, 0)
    assert reduced == [FIRST + hour * HOUR]


def test_a_new_row_version_recomputes_the_stored_rows(
    lake: Lake, reduced: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    _look(lake)
    reduced.clear()
    monkeypatch.setattr(stored_sums, "VERSION", stored_sums.VERSION + 1)
    _look(lake)
    assert len(reduced) == 8


def test_late_outcomes_of_an_hour_are_read_in_the_next_days(lake: Lake, reduced: list[datetime]) -> None:
    before = _clicks(lake)
    reduced.clear()
    _click(0, 0, 9 * HOUR, "late").add_to(lake)
    _click(7, 0, HOUR, "young").add_to(lake)  # its hour is not mature yet
    compact(lake, FIRST + 10 * HOUR)
    assert _clicks(lake) == before and reduced == []
    _records(range(74, 75)).add_to(lake)
    compact(lake, FIRST + 76 * HOUR)
    assert _clicks(lake) == (before[0] + 19, 1)
    assert reduced[0] == FIRST


def test_a_timely_outcome_counts_even_if_uploaded_after_its_hour_is_closed(tmp_path: Path) -> None:
    """The compaction merges the late upload into its hour's file, which makes the stored sums invalid."""
    lake = _records(range(1)).add_to(tmp_path)
    compact(lake, FIRST + 4 * HOUR)
    _records(range(300, 301)).add_to(tmp_path)
    compact(lake, FIRST + 302 * HOUR)
    assert _clicks(lake) == (6, 0)
    _click(0, 0, 2.5 * HOUR, "in time").add_to(tmp_path)
    compact(lake, FIRST + 302 * HOUR)
    assert len(lake.closed("outcome", FIRST, FIRST + HOUR)) == 1
    assert _clicks(lake) == (7, 0)


def test_timely_outcomes_count_during_and_after_a_missing_compaction(tmp_path: Path) -> None:
    """No compaction runs in hours 12 to 19. Each click comes two hours after its decision, early enough to count."""
    lake, log = Lake.open(tmp_path), _records(range(30))
    for hour in range(30):
        came = Log()
        begin, end = ((FIRST + each * HOUR).isoformat() for each in (hour, hour + 1))
        came.decisions = [one for one in log.decisions if begin <= one["event_time"] < end]
        came.outcomes = [one for one in log.outcomes if begin <= one["received_time"] < end]
        came.add_to(tmp_path)
        if not 12 <= hour < 20:
            compact(lake, FIRST + (hour + 1.2) * HOUR)
        if hour > 9:
            found = _look(lake)
            counts = [sum(found.of(arm, ((of, 1.0),)) for arm in found.arms) for of in ("decisions", "plain:click")]
            assert counts[0] == counts[1] >= 6 * (hour - 4), hour


def test_a_read_only_lake_gives_the_same_sums(lake: Lake) -> None:
    expected = _clicks(lake)
    for file in lake.derived("sums"):
        lake.files.delete_file(file.name)
    with patch.object(Lake, "put", side_effect=PermissionError("read-only")):
        assert _clicks(lake) == expected
    assert lake.derived("sums") == []


def test_sums_that_are_no_longer_read_are_deleted(lake: Lake) -> None:
    _look(lake)
    assert lake.folder is not None
    old = lake.derived("sums")
    _click(4, 0, 2.5 * HOUR, "in time").add_to(lake)
    compact(lake, FIRST + 10 * HOUR)
    for file in old:
        os.utime(lake.folder / file.name, (1e9, 1e9))
    _look(lake)
    _look(lake)
    assert len(lake.derived("sums")) == 8
    lake.supersede([], 0)
    assert [(lake.folder / file.name).exists() for file in old] == [file.hour != FIRST + 4 * HOUR for file in old]


def test_sums_of_unused_settings_are_deleted(lake: Lake) -> None:
    _look(lake)
    assert lake.folder is not None
    for file in lake.derived("sums"):
        os.utime(lake.folder / file.name, (1e9, 1e9))
    with experiment_users(DecisionLog.of(lake), EXPERIMENT.replace(salt="another"), CLICK):
        pass
    assert len(lake.derived("sums")) == 8


def test_sums_are_deleted_with_their_hours_and_with_a_forgotten_user(lake: Lake) -> None:
    _look(lake)
    drop_hours(lake, FIRST + 2 * HOUR)
    assert {file.hour for file in lake.derived("sums")}.isdisjoint({FIRST, FIRST + HOUR})
    _look(lake)
    forget_in_bucket(lake, ["u1"], FIRST + 10 * HOUR)
    assert lake.derived("sums") == []
    assert _look(lake).count("incumbent", "challenger") == 5


@pytest.mark.parametrize("fails", [False, True])
def test_a_user_forgotten_during_a_read_is_not_stored(lake: Lake, fails: bool) -> None:
    put, now = Lake.put, FIRST + 10 * HOUR
    lake.forget(["u1"], now)

    def forgetting(self: Lake, file: Path, name: str) -> None:
        if name.startswith("sums"):
            remove_users(lake, Forgotten({unit_hash("u1"): now}))
            if fails and lake.derived("sums"):
                raise LogError("a fault")
        put(self, file, name)

    with patch.object(Lake, "put", forgetting), suppress(LogError):
        _look(lake)
    assert lake.derived("sums") == []


def test_files_with_other_names_are_not_deleted(lake: Lake) -> None:
    before = _clicks(lake)
    assert lake.folder is not None
    file = lake.folder / lake.derived("sums")[0].name
    (file.parent / "copy.parquet").write_bytes(file.read_bytes())
    assert _clicks(lake) == before
    forget_in_bucket(lake, ["u1"], FIRST + 10 * HOUR)
    assert lake.derived("sums") == []


@pytest.fixture
def past(tmp_path: Path) -> Lake:
    """Return a lake of thirty hours, the first 24 of which count as the past."""
    lake = _records(range(30)).add_to(tmp_path / "past")
    compact(lake, FIRST + 32 * HOUR)
    return lake


@pytest.fixture
def fetched() -> Iterator[list[str]]:
    names: list[str] = []
    fetch = stored_sums._Sums._fetch

    def noting(self: Any, file: LakeFile) -> Path:
        names.append(file.name)
        return fetch(self, file)

    with patch.object(stored_sums._Sums, "_fetch", noting):
        yield names


def test_past_users_have_one_row_until_one_is_forgotten(past: Lake, fetched: list[str]) -> None:
    first = _look(past)
    fetched.clear()
    second = _look(past)
    assert second.sums.products_CBCB == pytest.approx(first.sums.products_CBCB, abs=1e-9)
    hours = {name.split("/date=")[1][:18] for name in fetched if "-past" not in name}
    assert hours == {f"2025-03-02/hour={hour:02}" for hour in range(6)}
    assert past.folder is not None
    (users,) = [name for name in fetched if "-pastusers-" in name]
    assert pq.read_metadata(past.folder / users).num_rows == 6
    forget_in_bucket(past, ["u1"], FIRST + 10 * HOUR)
    assert not [file for file in past.derived("sums") if is_of_past(file)]


def test_covariates_are_read_from_the_log_once(tmp_path: Path) -> None:
    log, experiment = _records(range(30)), EXPERIMENT.replace(covariates="past")
    for row in log.decisions[:36]:
        row |= {"stage": "shadow", "assignment_probability": 1.0}
    lake, found = log.add_to(tmp_path), []
    compact(lake, FIRST + 32 * HOUR)
    with patch.object(stored_sums, "make_covariates", wraps=stored_sums.make_covariates) as find:
        for same in (lake, lake, Lake(lake.files, "s3://ads/lake")):
            with experiment_users(DecisionLog.of(same), experiment, CLICK) as read:
                found.append(read.users().sums)
    assert find.call_count == 1
    assert found[0].totals_CB[:, found[0].index_of("has_past")].sum() == found[0].users_C.sum() > 0
    for each in found[1:]:
        assert each.products_CBCB == pytest.approx(found[0].products_CBCB, abs=1e-9)


def test_retention_deletes_no_sums_before_the_first_stage_with_challengers(tmp_path: Path) -> None:
    log, experiment = _records(range(30)), EXPERIMENT.replace(covariates="past")
    for row in log.decisions:
        row |= {"stage": "shadow", "assignment_probability": 1.0}
    lake = log.add_to(tmp_path)
    compact(lake, FIRST + 32 * HOUR)
    with experiment_users(DecisionLog.of(lake), experiment, CLICK) as read:
        assert read.users().all_users == 0
    stored = [file.name for file in lake.derived("sums")]
    drop_hours(lake, FIRST)
    assert [file.name for file in lake.derived("sums")] == stored and any("-past-" in name for name in stored)


def test_the_past_of_another_layer_needs_no_record(past: Lake, reduced: list[datetime]) -> None:
    first = _look(past)
    reduced.clear()
    with experiment_users(DecisionLog.of(past), EXPERIMENT.replace(layer="another"), CLICK) as read:
        assert read.users().all_users == 0 and read.counted.left_out == {"other_experiment": 180}
    assert _look(past).of_arms == first.of_arms
    assert reduced == []


def test_the_days_spend_includes_hours_of_the_past(past: Lake) -> None:
    """The budget's day begins at 8:00 UTC, and its first hours are already stored as the past."""
    costs = Log()
    for hour in range(30):
        costs.outcomes += [{**row, "kind": "cost"} for row in _click(hour, 0, HOUR, f"cost-{hour}").outcomes]
    costs.add_to(past)
    compact(past, FIRST + 32 * HOUR)
    budget = {"campaign": "*", "channel": "*", "amount": 1e3, "period": "day", "timezone": "America/Los_Angeles"}
    experiment = EXPERIMENT.replace(budgets=[budget])
    with experiment_users(DecisionLog.of(past), experiment, CLICK) as read:
        spent = {of["arm"]: of["spent"] for of in spend_of(read.db, experiment, (FIRST + 30 * HOUR).timestamp())}
    assert spent["*"] == 22
