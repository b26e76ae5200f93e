"""Recurring runs on a server: as the file says, after any number of calls, and wherever one of them was cut off."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipelines.kfp_errors import RequestError
from pipelines.recurring import Change, apply, plan
from pipelines.schedule import RecurringRun, Schedule
from pipelines.server import Server
from tests.pipelines.fake_kfp import TRAIN, CutOff, FakeScheduler

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
GIVEN = {"source": "/log", "dataset": "mine"}


def nightly(name: str = "train", **changes: Any) -> RecurringRun:
    return RecurringRun.model_validate(
        {"name": name, "pipeline": "mtorl-train", "cron": "0 3 * * *", "parameters": GIVEN} | changes
    )


def of(*runs: RecurringRun, name: str = "shop") -> Schedule:
    return Schedule(name=name, runs=runs)


@pytest.fixture
def client() -> FakeScheduler:
    return FakeScheduler(NOON)


@pytest.fixture
def server(client: FakeScheduler) -> Server:
    server = Server(client, "mtorl")
    server.upload(TRAIN)
    return server


def call(server: Server, schedule: Schedule) -> list[Change]:
    client: FakeScheduler = server.client
    return apply(server, schedule, wait=client.let, now=client.now)


def said(changes: list[Change]) -> dict[str, str]:
    return {change.name: change.what for change in changes}


def test_twice_changes_nothing(server: Server, client: FakeScheduler) -> None:
    schedule = of(nightly(), nightly("weekly", cron="0 4 * * 0", enabled=False))
    assert said(call(server, schedule)) == {"train": "made", "weekly": "made"}
    calls = client.calls
    (train, weekly) = call(server, schedule)
    assert (train.what, weekly.what) == ("was there", "was there") and client.calls == calls
    assert train.next_run == datetime(2026, 11, 30, 3, tzinfo=UTC) and weekly.next_run is None


def test_what_the_server_is_told(server: Server, client: FakeScheduler) -> None:
    call(server, of(nightly(parameters=GIVEN | {"epochs": 3})))
    (made,) = client.recurring.values()
    assert made.trigger.cron_schedule.cron == "0 0 3 * * *"
    assert made.runtime_config.parameters == {"source": "/log", "dataset": "mine", "epochs": 3}
    assert made.max_concurrency == "1" and made.no_catchup is True and made.experiment_id == "mtorl/mtorl"
    assert made.pipeline_version_reference.pipeline_id == "id-of-mtorl-train"
    assert made.pipeline_version_reference.pipeline_version_id is None, "it follows the newest version"


def test_a_version_can_be_pinned(server: Server, client: FakeScheduler) -> None:
    newest = server.newest("mtorl-train")
    call(server, of(nightly(version=newest.version)))
    (made,) = client.recurring.values()
    assert made.pipeline_version_reference.pipeline_version_id == newest.version_id
    with pytest.raises(RequestError, match="train: no version 'mtorl-train-0' of 'mtorl-train'; the newest is 'mtorl-"):
        call(server, of(nightly(version="mtorl-train-0")))


def test_a_changed_entry_is_replaced_and_one_that_is_gone_is_removed(server: Server, client: FakeScheduler) -> None:
    call(server, of(nightly(), nightly("weekly", cron="0 4 * * 0")))
    changed = of(nightly(parameters=GIVEN | {"epochs": 3}))
    assert said(plan(server, changed)) == {"train": "replaced", "weekly": "removed"}
    assert len(client.recurring) == 2 and client.calls == 2, "a plan changes nothing"
    assert said(call(server, changed)) == {"train": "replaced", "weekly": "removed"}
    (left,) = client.recurring.values()
    assert left.runtime_config.parameters["epochs"] == 3 and left.status == "ENABLED"
    assert said(call(server, changed)) == {"train": "was there"}


def test_turning_off_and_on_keeps_the_recurring_run(server: Server, client: FakeScheduler) -> None:
    call(server, of(nightly()))
    (before,) = client.recurring
    assert said(call(server, of(nightly(enabled=False)))) == {"train": "turned off"}
    client.let(24 * 3600)
    assert client.started == []
    assert said(call(server, of(nightly()))) == {"train": "turned on"}
    assert list(client.recurring) == [before]


def test_what_others_have_made_is_not_touched(server: Server, client: FakeScheduler) -> None:
    call(server, of(nightly("staging's"), name="staging"))
    by_hand = of(nightly("by hand"))
    call(server, by_hand)
    for made in client.recurring.values():
        if made.display_name == "by hand":
            made.description = "Every night."
    assert said(call(server, of(nightly()))) == {"train": "made"}
    assert len(client.recurring) == 3
    for schedule in (of(nightly("by hand")), of(nightly("staging's"))):
        with pytest.raises(RequestError, match="is there that schedule 'shop' has not made: delete it, or"):
            call(server, schedule)
    assert len(client.recurring) == 3


def test_nothing_happens_if_one_entry_is_wrong(server: Server, client: FakeScheduler) -> None:
    with pytest.raises(RequestError, match="second: parameters that this pipeline can't do without: dataset"):
        call(server, of(nightly(), nightly("second", parameters={"source": "/log"})))
    with pytest.raises(RequestError, match="second: no pipeline 'other' on the server: mtorl pipeline upload"):
        call(server, of(nightly(), nightly("second", pipeline="other")))
    assert client.calls == 0


OLD, NEW = of(nightly()), of(nightly(parameters=GIVEN | {"epochs": 3}))
RENAMED = of(nightly("another name"))


def due_until(now: datetime, first: datetime) -> list[datetime]:
    """The nights from the first one on."""
    return [first + timedelta(days=day) for day in range((now - first).days + 1)]


def nights(client: FakeScheduler) -> Counter[datetime]:
    return Counter(due for _, _, due in client.started)


@pytest.mark.parametrize("quick", [True, False], ids=["the controller is quick", "and slow"])
@pytest.mark.parametrize("schedule", [NEW, RENAMED], ids=["changed", "renamed"])
@pytest.mark.parametrize("at", ["12:00:00", "02:59:59.900", "03:00:00", "03:00:00.100"])
def test_replacing_neither_loses_a_night_nor_runs_one_twice(
    server: Server, client: FakeScheduler, schedule: Schedule, at: str, quick: bool
) -> None:
    client.now = datetime(2026, 11, 29, 1, tzinfo=UTC)
    call(server, OLD)
    client.quick = quick
    now = datetime.fromisoformat(f"2026-11-30T{at}+00:00")
    client.let((now - client.now).total_seconds() - 10)
    client.now = now
    call(server, schedule)
    client.let(48 * 3600)
    assert nights(client) == Counter(due_until(client.now, first=datetime(2026, 11, 29, 3, tzinfo=UTC)))
    assert len(client.recurring) == 1


@pytest.mark.parametrize("hours", [0.1, 20, 70], ids=["soon", "after a night", "after three nights"])
@pytest.mark.parametrize("cut_off", [1, 2, 3])
def test_the_next_call_mends_what_one_that_was_cut_off_has_left(
    server: Server, client: FakeScheduler, cut_off: int, hours: float
) -> None:
    call(server, OLD)
    client.cut_off = client.calls + cut_off
    with pytest.raises(CutOff):
        call(server, NEW)
    client.let(hours * 3600)
    call(server, NEW)
    client.let(24 * 3600)
    assert max(nights(client).values()) == 1, "no night twice"
    (left,) = client.recurring.values()
    assert left.runtime_config.parameters["epochs"] == 3 and left.status == "ENABLED"
    due = due_until(client.now, first=datetime(2026, 11, 30, 3, tzinfo=UTC))
    # The new one is off, and no old one is there: KFP makes up for the newest night that was due, and for no other.
    lost = due[:2] if cut_off == 2 and hours == 70 else []
    assert set(nights(client)) == set(due) - set(lost)
    assert said(call(server, NEW)) == {"train": "was there"}


def test_two_calls_at_once_leave_one(server: Server, client: FakeScheduler) -> None:
    call(server, NEW)
    client.recurring["copy"] = type(client.recurring["recurring-1"])(
        **client.recurring["recurring-1"].to_dict() | {"recurring_run_id": "copy", "trigger": None}
    )
    client.recurring["copy"].status = "DISABLED"
    assert said(call(server, NEW)) == {"train": "replaced"}
    assert list(client.recurring) == ["recurring-1"]
