"""Tests that the load driver sends rounds in order, and extends the history after outcomes."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from features.online.history import History
from monitoring.experiments.web import serving
from pipelines.loop.traffic import LoadDriver, Traffic, TrafficFailed, in_order, in_parts
from pipelines.loop.traffic_sources import Response, Touchpoint

START = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass
class Router:
    """A fake router that always exposes, and records requests and history changes in order."""

    events: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""
    reports: int = 0
    # The first report waits for this number of ads. The first two reports then fail.
    shown_before_the_first: int = 0
    busy: int = 0  # number of decisions that are refused at the beginning
    retry_after: int = 0
    busy_with_outcomes: bool = False

    async def _predict(self, request: web.Request) -> web.Response:
        (instance,) = (await request.json())["instances"]
        if self.busy > 0:
            self.busy -= 1
            return web.json_response({"error": "saturated"}, status=429, headers={"retry-after": str(self.retry_after)})
        self.events.append(("decide", instance))
        return web.json_response({"predictions": [{"decision_id": instance["request_id"]}]})

    async def _outcomes(self, request: web.Request) -> web.Response:
        outcomes = (await request.json())["outcomes"]
        if self.busy_with_outcomes:
            return web.json_response({"error": "saturated"}, status=429, headers={"retry-after": "0"})
        self.reports += 1
        while self.reports == 1 and sum(name == "shown" for name, _ in self.events) < self.shown_before_the_first:
            await asyncio.sleep(0.001)
        refused = self.shown_before_the_first > 0 and self.reports <= 2
        self.events.append(("refused" if refused else "outcomes", outcomes))
        return web.json_response({}, status=503 if refused else 200)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/v1/models/ads:predict", self._predict)
        application.router.add_post("/v1/outcomes", self._outcomes)
        return application


@pytest.fixture
def router() -> Iterator[Router]:
    made = Router()
    with serving(made.application(), "127.0.0.1", 0) as url:
        made.url = url.rstrip("/")
        yield made


class RecordingHistory(History):
    """A history that records all changes, and accepts them only if `takes` is true."""

    def __init__(self, router: Router, takes: bool = True) -> None:
        self.router, self.takes = router, takes

    def exposure(self, decision: Any) -> Any:
        return decision

    def outcome(self, outcome: Any, missed: set[str] | None = None) -> Any:
        return outcome

    def change(self, changes: Mapping[str, Any]) -> set[str]:
        self.router.events += [("write", written) for written in changes.items()]
        return set(changes) if self.takes else set()


@dataclass
class Clickers:
    """Simulated users who click on every ad, at a cost of 0.5. If `shows` is false, they see no ads."""

    opportunities: dict[str, int]
    shows: bool = True

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        when = START + timedelta(days=1 + round_index, microseconds=1)
        return {"campaign_id": "c", "context": {"hour": 9.0}, "timestamp": when}

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        if not self.shows:
            return Response(())
        shown = self.opportunity(user_id, round_index)
        outcomes = {"click": 1.0, "cost": 0.5}
        return Response(
            list(outcomes.items()), touchpoint=Touchpoint(shown["timestamp"], "video", shown["context"], outcomes)
        )


def send(source: Clickers, router: Router, history: History, on_done: Callable[[Traffic], None] = id) -> Traffic:
    return LoadDriver(router.url, history).send(source, "live", on_done)


def test_a_touchpoint_is_in_the_history_once_its_outcomes_are_reported(router: Router) -> None:
    traffic = send(Clickers({"u1": 1}), router, RecordingHistory(router))
    (_, asked), (_, reported), (_, (user, (shown, *outcomes))) = router.events
    assert [name for name, _ in router.events] == ["decide", "outcomes", "write"] and user == "u1"
    when = "2020-01-02T00:00:00.000001+00:00"
    assert asked["timestamp"] == when and asked["request_id"] == "live-0-u1"
    own = {"request_time": when, "channel": "video", "context": {"hour": 9.0}}
    assert shown == {"decision_id": "live-0-u1", **own}
    for events in (reported, outcomes):
        assert {event["kind"]: event["value"] for event in events} == {"click": 1.0, "cost": 0.5}
    assert [event["event_id"] for event in reported] == [event["event_id"] for event in outcomes]
    assert traffic.errors == [] and traffic.weights == {"live-0-u1": 1.0} and len(traffic.latencies) == 1


@pytest.mark.parametrize(("busy", "refused"), [(4, 0), (5, 1)])
def test_a_decision_refused_five_times_is_counted_and_is_no_error(
    router: Router, busy: int, refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    router.busy, router.retry_after, real = busy, 3, asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr("pipelines.loop.traffic.asyncio.sleep", sleep)
    traffic = send(Clickers({"u1": 1}, shows=False), router, RecordingHistory(router))
    assert traffic.errors == [] and traffic.refused == refused and traffic.done == 1
    assert [wait for wait in waits if wait >= 1] == [3, 6, 12, 24]
    assert [name for name, _ in router.events] == ["decide"] * (1 - refused), "refused decisions leave no trace"
    traffic.check(2)
    if refused:
        with pytest.raises(TrafficFailed):
            traffic.check(1)


def test_refused_outcomes_are_errors(router: Router) -> None:
    router.busy_with_outcomes = True
    traffic = send(Clickers({"u1": 1, "u2": 1}), router, RecordingHistory(router))
    assert traffic.refused == 0 and len(traffic.errors) == 2
    ((cause, count),) = traffic.causes().items()
    assert count == 2 and "429 from /v1/outcomes" in cause


def test_a_history_that_refuses_changes_is_an_error_of_the_run(router: Router) -> None:
    seen: list[int] = []
    history = RecordingHistory(router, takes=False)
    traffic = send(Clickers({"u1": 1}), router, history, lambda so_far: seen.append(len(so_far.errors)))
    assert len(traffic.errors) == 1 and "2020-01-02" in traffic.errors[0]
    assert seen == [1]


def test_outcomes_are_batched_and_a_failed_report_is_an_error_for_each_of_its_users(router: Router) -> None:
    router.shown_before_the_first = 12
    users = {f"u{i}": 1 for i in range(60)}

    class Shown(Clickers):
        def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
            router.events.append(("shown", user_id))
            return super().respond(user_id, round_index, decision)

    traffic = LoadDriver(router.url, RecordingHistory(router)).send(Shown(users), "live", id)
    reports = [
        (name, {event["decision_id"].split("-")[-1] for event in found})
        for name, found in router.events
        if name in ("outcomes", "refused")
    ]
    assert [name for name, _ in reports[:3]] == ["refused", "refused", "outcomes"]
    refused = reports[0][1] | reports[1][1]
    assert len(refused) >= 12, "every user in flight must share one of the two failed reports"
    assert sum(len(of) for _, of in reports) == 60
    assert sorted(error.split(": ")[0] for error in traffic.errors) == sorted(refused)
    assert {of[0] for name, of in router.events if name == "write"} == set(users) - refused


def test_a_round_is_answered_before_the_next_one_is_sent(router: Router) -> None:
    opportunities = {"u0": 1, "u1": 3, "u2": 2, "u3": 1}
    source, history, traffic = Clickers(opportunities, shows=False), RecordingHistory(router), Traffic()
    driver = LoadDriver(router.url, history)
    for part in ([turn for turn in in_order(source) if turn[0] == 0], in_order(source)[4:]):
        assert driver.send(source, "live", id, part, traffic) is traffic
    assert traffic.done == 7 == len(traffic.weight_table())
    sent = [instance["request_id"].split("-")[1:] for _, instance in router.events]
    assert [turn for turn, _ in sent] == ["0"] * 4 + ["1"] * 2 + ["2"]
    assert Counter(user for _, user in sent) == opportunities


@given(st.lists(st.integers(0, 6), max_size=30), st.integers(0, 3))
def test_parts_cover_the_traffic_and_keep_each_journey_in_order(numbers: list[int], before: int) -> None:
    source = Clickers({f"u{n}": number for n, number in enumerate(numbers)})
    parts, turns = in_parts(source, before), in_order(source)
    sent = [at for part in parts for at in part]
    assert turns == sorted(turns, key=lambda at: at[0]) and sorted(sent) == sorted(turns) and all(parts)
    assert Counter(user for _, user in turns) == Counter(source.opportunities)
    for user, number in source.opportunities.items():
        assert [turn for turn, other in sent if other == user] == list(range(number))
    long = [user for user, number in source.opportunities.items() if number > before]
    if long:
        assert parts[:before] == [[(turn, user) for user in long] for turn in range(before)]
        assert {user for part in parts[before:] for _, user in part} == {user for _, user in turns}, "a user is lost"


def test_a_missing_number_is_sent_as_null(router: Router) -> None:
    class Forgetful(Clickers):
        def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
            found = super().opportunity(user_id, round_index)
            return {**found, "context": {"hour": float("nan"), "device": None, "slot": "top"}}

    traffic = send(Forgetful({"u1": 1}, shows=False), router, RecordingHistory(router))
    assert traffic.errors == []
    assert router.events[0][1]["context"] == {"hour": None, "device": None, "slot": "top"}


def test_traffic_with_too_many_failures_reports_the_reason() -> None:
    errors = [f"u{n}: RuntimeError: HTTP 503 from /v1: no room after {n}.5 s" for n in range(3)]
    traffic = Traffic(errors=[*errors, "u9: TimeoutError: "])
    traffic.check(400)
    with pytest.raises(TrafficFailed):
        traffic.check(399)
    assert list(traffic.causes().values()) == [3, 1] and "TimeoutError: " in traffic.causes()
