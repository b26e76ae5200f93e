"""Tests that each period is judged once, even if checks are late, interrupted or repeated."""

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.monitoring_runs.days import START
from monitoring import messages
from monitoring.watch import check as check_module
from monitoring.watch.check import run
from monitoring.watch.state import STATE_FILE, BusyError, State, StateError, alone
from tests.messages import raises
from tests.monitoring.watch.market import Market, worse_challenger

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def two_weeks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    Market(folder).live(13)
    return folder


@pytest.fixture(scope="module")
def judged(two_weeks: Path, tmp_path_factory: pytest.TempPathFactory) -> State:
    return run(market(two_weeks).watched, tmp_path_factory.mktemp("judged"), at(13))


def market(two_weeks: Path, state: Path | None = None) -> Market:
    made = Market(two_weeks)
    made.folder, made.next = state or two_weeks / "none", 13
    return made


def at(days: float, hours: float = 2.0) -> datetime:
    return START + timedelta(days=days, hours=hours)


def same(one: State, other: State, but: tuple[str, ...] = ()) -> bool:
    def rounded(part: Any) -> Any:
        if isinstance(part, float):
            return float(f"{part:.6g}")
        if isinstance(part, dict):
            return {key: rounded(value) for key, value in part.items() if key not in but}
        return [rounded(value) for value in part] if isinstance(part, list) else part

    return bool(rounded(one.model_dump(mode="json")) == rounded(other.model_dump(mode="json")))


def test_a_period_is_judged_once_however_often_it_is_checked(two_weeks: Path, tmp_path: Path, judged: State) -> None:
    watched = market(two_weeks).watched
    for day in (1, 2, 5, 13):
        for hours in (0.5, 2.0, 2.0):
            found = run(watched, tmp_path, at(day, hours))
            over = day if hours >= 1.0 else day - 1  # records are exported within an hour
            assert found.judged_until == (at(over, 0.0) if over else None)
            if over:
                assert len(found.streams["outcomes/gain_per_decision"].past) == over
    assert same(run(watched, tmp_path, at(13)), judged)
    assert {stream.expected is not None for stream in judged.streams.values()} == {True}
    assert not judged.alarms()


@pytest.mark.parametrize("where", ["before", "writing"])
def test_an_interrupted_check_resumes(
    where: str, two_weeks: Path, tmp_path: Path, judged: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, write = market(two_weeks).watched, State.write
    for killed in range(0, 13, 3):

        def end(*_: Any, killed: int = killed) -> None:
            known = State.read(tmp_path / STATE_FILE).judged_until
            if known is None or known >= at(killed, 0.0):
                raise KeyboardInterrupt

        def written(state: State, path: Path, killed: int = killed) -> None:
            if state.judged_until is not None and state.judged_until > at(killed, 0.0):
                raise KeyboardInterrupt
            write(state, path)

        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            if where == "writing":
                patch.setattr(State, "write", written)
            run(watched, tmp_path, at(13), end if where == "before" else None)
    assert same(run(watched, tmp_path, at(13)), judged)


def test_one_check_at_a_time(two_weeks: Path, tmp_path: Path) -> None:
    with alone(tmp_path), raises(BusyError, messages.CHECK_AT_WORK, folder=tmp_path):
        run(market(two_weeks).watched, tmp_path, at(1))
    assert run(market(two_weeks).watched, tmp_path, at(1)).judged_until == at(1, 0.0)


def test_a_changed_period_length_or_a_future_state_is_refused(two_weeks: Path, tmp_path: Path) -> None:
    watched = market(two_weeks).watched
    before = run(watched, tmp_path, at(3))
    with raises(StateError, messages.OTHER_PERIODS, hours=24, wanted=48):
        run(replace(watched, hours=48), tmp_path, at(5))
    with raises(StateError, messages.FUTURE_STATE):
        run(watched, tmp_path, at(1))
    assert State.read(tmp_path / STATE_FILE) == before, "a mistyped option must not change the state"


def test_a_long_log_is_judged_from_near_its_end(two_weeks: Path, tmp_path: Path) -> None:
    told: list[tuple[datetime, int]] = []
    run(market(two_weeks).watched, tmp_path, at(300), lambda end, left: told.append((end, left)))
    assert len(told) == check_module.MOST_PERIODS and told[-1] == (at(300, 0.0), 1)


def test_old_pages_are_deleted(two_weeks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "_KEPT_PAGES", 3)
    run(market(two_weeks).watched, tmp_path, at(5))
    pages = sorted(path.name for path in (tmp_path / "periods").iterdir())
    assert pages == [f"{at(day, 0.0):%Y-%m-%dT%H}" for day in (3, 4, 5)]
    assert json.loads((tmp_path / "periods" / pages[0] / "drift.json").read_text())["columns"]


def test_accepted_changes_restart_learning(two_weeks: Path, tmp_path: Path) -> None:
    watched, stream = market(two_weeks).watched, "outcomes/cost_per_exposure"
    state = run(watched, tmp_path, at(10))
    state.accept(stream, "a new contract", at(10))
    state.write(tmp_path / STATE_FILE)
    found = run(watched, tmp_path, at(12))
    assert len(found.streams[stream].past) == 2 and found.streams[stream].expected is None
    assert len(found.streams["outcomes/gain_per_cost"].past) == 12


def test_harm_by_a_challenger_names_it(two_weeks: Path, tmp_path: Path) -> None:
    shutil.copytree(two_weeks, tmp_path / "market")
    made = market(tmp_path / "market")
    made.live(4, worse_challenger)
    alarm = made.check().alarms()["outcomes/gain_per_decision"]
    assert alarm.kind == "harm" and alarm.arms == ["spring/challenger"]
