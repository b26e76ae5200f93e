"""Who comes in, how much at once, what a repeated request gets, and what the probes and the drills say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from serving.router.flow.admission import CURRENT, Admission, Saturated
from serving.router.flow.idempotency_cache import SECONDS, IdempotencyCache, prediction_of
from serving.router.http.auth import ProxyHeader, Tokens
from serving.router.http.grpc_server import GrpcServer
from serving.router.ops.settings import SettingsError
from tests.serving.router_fixtures import CONTEXT, Harness, instance, kserve, running, sample, write_settings

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")

TOKEN = "0123456789abcdef-token"
BODY = {"instances": [instance()]}


def run(scenario: Callable[[Harness], Awaitable[None]], folder: Path, **options: Any) -> None:
    """Run a scenario against a router of its own."""

    async def inside() -> None:
        async with running(folder, **options) as harness:
            await scenario(harness)

    asyncio.run(inside())


def without_version(answer: dict[str, Any]) -> dict[str, Any]:
    """The log does not hold it."""
    return {**answer, "model": answer["model"] and {**answer["model"], "version": None}}


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


# ---- who


def test_who_has_no_token_decides_nothing_and_reports_nothing(tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text(TOKEN + "\n")
    before = sample("mtorl_refused_requests_total", status="401")

    async def scenario(h: Harness) -> None:
        for path in (
            "/v1/models/ads:predict",
            "/v2/models/ads/infer",
            "/v1/outcomes",
            "/v1/drills",
            "/v2/repository/x",
        ):
            for headers in ({}, {"authorization": "Bearer wrong-0123456789abcdef"}, {"authorization": TOKEN}):
                response = await h.post(path, None, json=BODY, headers=headers)
                assert response.status_code == 401, path
                assert response.headers["www-authenticate"] == "Bearer" and "Bearer" in response.json()["error"]
        assert not h.records() and not h.arm.asked
        assert sample("mtorl_refused_requests_total", status="401") >= before + 15
        assert (await h.client.get("/docs")).status_code == 401
        for path in ("/metrics", "/health/live", "/health/ready", "/v2/health/live", "/v1/models/ads"):
            assert (await h.client.get(path)).status_code == 200, path
        good = await h.post("/v1/models/ads:predict", None, json=BODY, headers={"authorization": f"bearer {TOKEN}"})
        assert good.status_code == 200 and TOKEN not in (await h.client.get("/metrics")).text

    run(scenario, tmp_path, auth={"kind": "token", "file": "token.txt"})


def test_a_token_is_rotated_without_a_restart_and_never_by_accident(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN}\nshort\n")
    tokens = Tokens(file)
    assert tokens.admits(bearer(TOKEN)) and not tokens.admits(bearer("short")) and not tokens.admits(bearer(""))
    file.write_text(f"{TOKEN}\nanother-0123456789\n")
    assert tokens.admits(bearer("another-0123456789")) and tokens.admits(bearer(TOKEN))
    file.write_text("another-0123456789\n\n")
    assert not tokens.admits(bearer(TOKEN))
    file.write_text("")
    assert tokens.admits(bearer("another-0123456789"))
    file.unlink()
    assert tokens.admits(bearer("another-0123456789"))
    assert not tokens.admits(bearer("another-0123456789") * 2)  # which of two was meant?


def test_a_proxy_vouches_by_a_header() -> None:
    header = ProxyHeader("X-Client", ["ads"])
    assert header.admits([(b"x-client", b"ads")])
    assert not header.admits([(b"x-client", b"other")]) and not header.admits([])
    assert not header.admits([(b"x-client", b"ads"), (b"x-client", b"ads")])


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        (None, "auth: expected a mapping, got None"),
        ({}, "auth: missing field 'kind'"),
        ({"kind": "magic"}, "auth.kind: 'magic' is not one of none, token, header"),
        ({"kind": "none", "file": "x"}, "auth.none: unknown field 'file'; known: kind"),
        ({"kind": "token"}, "auth.token: missing field 'file'"),
        ({"kind": "token", "file": 3}, "auth.token.file: expected a path, got 3"),
        ({"kind": "header", "name": "x", "values": []}, "auth.header.values: expected at least 1 item, got 0"),
    ],
)
def test_a_wrong_auth_setting_is_named(tmp_path: Path, auth: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        write_settings(tmp_path, "http://x", {}, auth=auth)


def test_a_file_without_a_token_is_named(tmp_path: Path) -> None:
    for file in (tmp_path / "absent", tmp_path / "short"):
        (tmp_path / "short").write_text("short\n")
        with pytest.raises(SettingsError, match=f"auth.file: {file} holds no token of at least 16 characters"):
            Tokens(file)


def test_authentication_is_never_off_by_default(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing field 'auth'"):
        settings = write_settings(tmp_path, "http://x", {})
        text = (tmp_path / "router.yaml").read_text().replace("auth:\n  kind: none\n", "")
        (tmp_path / "router.yaml").write_text(text)
        type(settings).load(tmp_path / "router.yaml")


# ---- how much


def test_a_large_or_endless_body_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async def endless() -> Any:
        while True:
            yield b"x" * 1000

    async def scenario(h: Harness) -> None:
        for content in (b"x" * 5000, endless()):
            response = await h.post("/v1/models/ads:predict", None, content=content)
            assert response.status_code == 413 and "larger than 4096 bytes" in response.json()["error"]
        assert h.gateway.readers == 0
        assert (await h.predict())[0]["expose"]

    run(scenario, tmp_path, max_body_bytes=4096)


def test_a_body_that_does_not_come_costs_its_own_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.router.http.gateway._BODY_SECONDS", 0.1)

    async def slow() -> Any:
        yield b"{"
        await asyncio.sleep(1)

    async def scenario(h: Harness) -> None:
        response = await h.post("/v1/models/ads:predict", None, content=slow())
        assert response.status_code == 408 and h.gateway.readers == 0

    run(scenario, tmp_path)


def test_who_is_too_many_is_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.router.flow.admission._PATIENCE", 0.01)

    async def scenario(h: Harness) -> None:
        h.arm.mode = "slow"
        waiting = [asyncio.create_task(h.post("/v1/models/ads:predict", BODY)) for _ in range(3)]
        await h.until(lambda: h.gateway.decisions.inside == 3)
        refused = await h.post("/v1/models/ads:predict", BODY)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        # Outcomes have room of their own.
        event = {"event_id": "e", "decision_id": "d", "kind": "click", "value": 1, "event_time": "2026-01-01T00:00:00Z"}
        assert (await h.post("/v1/outcomes", {"outcomes": [event]})).status_code == 200
        assert [(await answer).status_code for answer in waiting] == [200] * 3
        assert h.gateway.decisions.inside == 0
        h.arm.mode = "ok"
        assert (await h.predict())[0]["expose"]

    run(scenario, tmp_path, max_in_flight=3)


@given(
    st.integers(1, 12),
    st.sampled_from([0.0, 10.0]),
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.001, 0.04, 0.2])), max_size=100),
)
@settings(deadline=None)
def test_never_more_than_the_limit_and_the_limit_stays_within_bounds(
    most: int, patience: float, steps: list[tuple[bool, float]]
) -> None:
    async def scenario() -> None:
        clock = [0.0]
        ends: list[asyncio.Event] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("serving.router.flow.admission.perf_counter", lambda: clock[0])
            patch.setattr("serving.router.flow.admission._PATIENCE", patience)
            admission = Admission(most, 0.1)

            async def guest(end: asyncio.Event) -> None:
                async with admission.admit():
                    await end.wait()

            tasks = []
            for comes, seconds in steps:
                clock[0] += seconds
                before = admission.inside
                if comes:
                    ends.append(asyncio.Event())
                    tasks.append(asyncio.create_task(guest(ends[-1])))
                elif ends:
                    ends.pop(0).set()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert 0 <= admission.inside <= most
                assert admission.inside <= max(before, int(admission.limit))
                assert min(4, most) <= admission.limit <= most
            for end in ends:
                end.set()
            for found in await asyncio.gather(*tasks, return_exceptions=True):
                assert found is None or isinstance(found, Saturated)
            assert admission.inside == 0 and admission.waiting == 0

    asyncio.run(scenario())


def test_who_finds_no_room_waits_in_turn_and_not_for_long() -> None:
    async def scenario() -> None:
        admission = Admission(1, 0.5)
        order: list[str] = []
        end = asyncio.Event()

        async def guest(name: str) -> None:
            async with admission.admit():
                order.append(name)
                await end.wait()

        tasks = [asyncio.create_task(guest(name)) for name in "abc"]
        await asyncio.sleep(0.01)
        assert order == ["a"] and admission.inside == 1
        gone = asyncio.create_task(guest("gone"))
        await asyncio.sleep(0)
        gone.cancel()
        end.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c"]
        end.clear()
        busy = asyncio.create_task(guest("busy"))
        await asyncio.sleep(0)
        started = asyncio.get_running_loop().time()
        with pytest.raises(Saturated):
            await guest("late")
        assert asyncio.get_running_loop().time() - started > 0.09
        end.set()
        await busy
        assert admission.inside == 0 and admission.waiting == 0

    asyncio.run(scenario())


def test_whoever_is_sent_away_and_gone_at_once_had_no_place() -> None:
    async def scenario() -> None:
        admission = Admission(1, 0.05)
        async with admission.admit():
            late = asyncio.create_task(admission.admit().__aenter__())
            await asyncio.sleep(0)
            _, turn = admission._waiting.popleft()
            turn.set_exception(Saturated("too late"))
            late.cancel()  # before it wakes
            with pytest.raises((asyncio.CancelledError, Saturated)):
                await late
            assert admission.inside == 1
        assert admission.inside == 0

    asyncio.run(scenario())


def test_the_limit_falls_when_answers_are_late_and_rises_again() -> None:
    async def scenario() -> None:
        admission, clock = Admission(40, 0.1), [0.0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("serving.router.flow.admission.perf_counter", lambda: clock[0])

            async def together(count: int, seconds: float) -> None:
                async with AsyncExitStack() as guests:
                    for _ in range(count):
                        await guests.enter_async_context(admission.admit())
                    clock[0] += seconds
                clock[0] += 0.001

            for _ in range(300):
                await together(7, 0.01)
            assert admission.limit == pytest.approx(14, abs=1)  # no more than is used, twice
            limit = admission.limit
            await together(10, 0.11)  # held up until the deadline, and a little over it
            assert admission.limit == limit
            await together(10, 0.2)
            assert admission.limit == pytest.approx(0.9 * limit)  # late together: one sign, not twenty
            for _ in range(30):
                await together(4, 0.2)
            assert admission.limit == 4
            for _ in range(2000):
                await together(int(admission.limit), 0.01)
            assert admission.limit == 40

    asyncio.run(scenario())


def test_strain_lowers_the_limit_only_where_others_wait_and_not_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.router.flow.admission._PATIENCE", 100.0)

    async def scenario() -> None:
        admission = Admission(64, 0.05)
        admission.limit = 40.0

        async def strained() -> None:
            async with admission.admit():
                await asyncio.sleep(0)
                request = CURRENT.get()
                assert request is not None
                request.strained = True

        await asyncio.gather(*(strained() for _ in range(30)))
        assert admission.limit == 40
        await asyncio.gather(*(strained() for _ in range(400)))
        assert admission.limit == 8

    asyncio.run(scenario())


def test_slow_answers_are_a_strain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("serving.router.flow.admission._PATIENCE", 100.0)
    monkeypatch.setattr("serving.router.flow.admission.perf_counter", lambda: clock[0])

    async def scenario() -> None:
        admission = Admission(64, 0.05)

        async def round_of(guests: int) -> None:
            end = asyncio.Event()

            async def guest() -> None:
                async with admission.admit():
                    await end.wait()

            tasks = [asyncio.create_task(guest()) for _ in range(guests)]
            await asyncio.sleep(0)
            clock[0] += 0.03  # of 0.05
            end.set()
            await asyncio.gather(*tasks)

        admission.limit = 20.0
        await round_of(20)
        assert admission.limit == 20  # nobody waited
        for _ in range(100):
            await round_of(30)
        assert admission.limit < 13

    asyncio.run(scenario())


# ---- again


def test_a_request_that_comes_again_gets_its_answer_and_one_reservation(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        (first,) = await h.predict(instance(request_id="r1"))
        h.arm.mode = 500
        again, twice = await h.predict(instance(request_id="r1"), instance(request_id="r1"))
        assert first == again == twice and first["expose"]
        assert len(h.records()) == 1 and h.balance(first["arm"]).reserved == 0.05
        h.arm.mode = "ok"
        (other,) = await h.predict(instance("u2", request_id="r1"))
        assert other["decision_id"] != first["decision_id"]  # a request id is the caller's for that user
        both = await asyncio.gather(*(h.predict(instance(request_id="r2")) for _ in range(5)))
        assert len({answer["decision_id"] for (answer,) in both}) == 1 and len(h.records()) == 3
        plain = await asyncio.gather(*(h.predict() for _ in range(3)))
        assert len({answer["decision_id"] for (answer,) in plain}) == 3

    run(scenario, tmp_path)


def test_it_gets_it_after_a_restart_too(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = []

    async def before(h: Harness) -> None:
        given.extend(await h.predict(instance(request_id="r1")))
        h.arm.mode = 500
        given.extend(await h.predict(instance(request_id="r2")))

    async def after(h: Harness) -> None:
        again = await h.predict(instance(request_id="r1"), instance(request_id="r2"))
        assert again == [without_version(answer) for answer in given]
        assert not h.arm.asked and len(h.records()) == 2

    run(before, tmp_path)
    run(after, tmp_path)
    assert given[0]["expose"] and given[0]["model"]["version"] and given[1]["fallback_reason"] == "model_error"


def test_a_fallback_is_repeated_as_well(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = 500
        (first,) = await h.predict(instance(request_id="r1"))
        h.arm.mode = "ok"
        assert await h.predict(instance(request_id="r1")) == [first] and first["fallback_reason"]

    run(scenario, tmp_path)


def test_the_answer_is_what_the_record_says(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        answers = await h.predict(instance(request_id="r1"))
        h.arm.mode = 500
        answers += await h.predict(instance())
        assert [prediction_of(record) for record in h.records()] == [without_version(answer) for answer in answers]

    run(scenario, tmp_path)


def test_old_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.router.flow.idempotency_cache.MOST", 3)
    clock = [1000.0]
    monkeypatch.setattr("serving.router.flow.idempotency_cache.time.monotonic", lambda: clock[0])

    async def scenario() -> None:
        answers = IdempotencyCache()
        for i in range(5):
            answers.begin(str(i))
            answers.give(str(i), {"decision_id": f"d{i}"})
        assert [answers.repeat(str(i)) is not None for i in range(5)] == [False, False, True, True, True]
        answers.forget("d3")
        answers.forget("unknown")
        assert answers.repeat("3") is None and len(answers) == 2
        clock[0] += SECONDS + 1
        assert answers.repeat("4") is None

    asyncio.run(scenario())


def test_a_second_attempt_touches_neither_the_money_nor_the_record_of_the_first(tmp_path: Path) -> None:
    """Another router, or one that has forgotten: the ledger alone knows that the request is paid for."""

    async def scenario(h: Harness) -> None:
        (first,) = await h.predict(instance(request_id="r1"))
        for stage, fault, reasons in (
            (None, None, {"repeated"}),
            ("ledger", "slow", {"ledger"}),
            ("ledger", "error", {"ledger"}),
            ("log", "error", {"log", "repeated"}),
            ("model", "error", {"model_error"}),
        ):
            h.router.decider.cache = IdempotencyCache()
            if stage:
                await h.post("/v1/drills", {"stage": stage, "fault": fault, "seconds": 5 * (fault == "slow")})
            (again,) = await h.predict(instance(request_id="r1"))
            await h.client.delete("/v1/drills")
            assert not again["expose"] and again["fallback_reason"] in reasons, stage
            assert again["decision_id"] != first["decision_id"]
            await asyncio.sleep(0.05)
            assert h.balance(first["arm"]).reserved == 0.05, stage
        await h.outcome(first["decision_id"], "cost", 0.04)
        balance = h.balance(first["arm"])
        assert (balance.spent, balance.reserved, balance.excess) == (0.04, 0.0, 0.0)
        assert [r["expose"] for r in h.records() if r["decision_id"] == first["decision_id"]] == [True]

    run(scenario, tmp_path, drills=True, deadline_ms=300)


@pytest.mark.parametrize("stage", ["_read_features", "_ask_arms", "_log"])
def test_a_bug_is_the_default_action_too_for_all_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    async def broken(*_: Any) -> None:
        await asyncio.sleep(0.05)
        raise ZeroDivisionError

    async def scenario(h: Harness) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(h.router.decider, stage, broken)
            answers = await asyncio.gather(*(h.predict(instance(request_id="r1")) for _ in range(3)))
        assert {answer["fallback_reason"] for (answer,) in answers} == {"internal"}
        assert len({answer["decision_id"] for (answer,) in answers}) == 1
        assert h.router.decider.cache.in_progress == 0
        await h.until(lambda: not h.ledger.open_reservations())
        await h.until(lambda: [r["expose"] for r in h.records()][-1:] == [False])
        assert (await h.predict(instance()))[0]["expose"]

    run(scenario, tmp_path)


def test_an_exposure_that_was_given_back_is_decided_anew(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        (first,) = await h.predict(instance(request_id="r1"))
        await h.outcome(first["decision_id"], "cancel", 0.0)
        await h.until(lambda: h.balance(first["arm"]).reserved == 0)
        (second,) = await h.predict(instance(request_id="r1"))
        assert second["expose"] and second["decision_id"] != first["decision_id"]
        assert h.balance(first["arm"]).reserved == 0.05

    run(scenario, tmp_path)


def test_a_request_id_is_that_of_a_campaign(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        one, other = await h.predict(instance(request_id="r"), instance(request_id="r", campaign_id="summer"))
        assert one["decision_id"] != other["decision_id"] and h.balance(one["arm"]).reserved == 0.1

    run(scenario, tmp_path)


def test_a_caller_that_gives_up_leaves_a_record_and_harms_nobody(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = "slow"
        body = {"instances": [instance(request_id="r1"), instance()]}
        impatient = [asyncio.create_task(h.post("/v1/models/ads:predict", body)) for _ in range(3)]
        patient = asyncio.create_task(h.post("/v1/models/ads:predict", body))
        await h.until(lambda: len(h.arm.asked) >= 2)
        for task in impatient:
            task.cancel()
        answer = await patient
        assert answer.status_code == 200 and answer.json()["predictions"][0]["expose"]
        h.arm.mode = "ok"
        await h.router.decider.drain()
        assert len({r["decision_id"] for r in h.records()}) == len(h.ledger.open_reservations()) == len(h.records())
        assert h.router.decider.cache.in_progress == 0
        await h.until(lambda: h.gateway.decisions.inside == 0)
        (again,) = await h.predict(instance(request_id="r1"))
        assert again == answer.json()["predictions"][0]

    run(scenario, tmp_path)


# ---- probes and drills


def test_the_probes_tell_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(h: Harness) -> None:
        await h.predict()
        assert [(await h.client.get(f"/health/{p}")).status_code for p in ("live", "ready", "startup")] == [200] * 3
        ready = (await h.client.get("/health/ready")).json()
        assert ready["ready"] and set(ready["parts"]) >= {"ledger", "features", "incumbent", "challenger"}
        assert (await h.client.get("/health/other")).status_code == 404
        h.features.fault = RuntimeError("away")
        await h.predict()
        parts = (await h.client.get("/health/ready")).json()["parts"]
        assert parts["features"] == "no answer: RuntimeError"
        h.arm.mode, h.features.fault = 500, None
        await h.predict(*(instance(f"u{n}") for n in range(20)))
        parts = (await h.client.get("/health/ready")).json()["parts"]
        assert parts["features"] == "ok" and parts["incumbent"] == parts["challenger"] == "no answer: ArmError"
        h.arm.mode = "ok"
        (tmp_path / "ledger.sqlite").unlink()
        await h.until(lambda: h.router.health.parts.get("ledger", "ok") != "ok")
        away = await h.client.get("/health/ready")
        assert away.status_code == 200 and away.json()["parts"]["ledger"].startswith("no answer")  # it still decides
        h.router.health.draining = True
        assert (await h.client.get("/health/ready")).status_code == 503
        h.router.health.draining = False
        h.spool.close()
        dead = await h.client.get("/health/ready")
        assert dead.status_code == 503 and dead.json()["parts"]["decision_log"] == "its thread has ended"
        now = monotonic()
        monkeypatch.setattr("serving.router.ops.health.monotonic", lambda: now + 60)
        assert (await h.client.get("/health/live")).status_code == 503

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    ("stage", "reason"), [("features", "features"), ("model", "model_error"), ("ledger", "ledger"), ("log", "log")]
)
def test_a_drill_is_the_fault_that_it_plays(tmp_path: Path, stage: str, reason: str) -> None:
    async def scenario(h: Harness) -> None:
        drill = {"stage": stage, "fault": "error"}
        assert (await h.post("/v1/drills", drill)).json()["drills"][0]["stage"] == stage
        (answer,) = await h.predict()
        assert answer["fallback_reason"] == reason and not answer["expose"]
        assert (await h.client.delete("/v1/drills")).json() == {"drills": []}
        assert (await h.predict())[0]["expose"]

    run(scenario, tmp_path, drills=True)


def test_drills_are_off_unless_allowed_end_by_themselves_and_are_checked(tmp_path: Path) -> None:
    async def forbidden(h: Harness) -> None:
        assert (await h.post("/v1/drills", {"stage": "model", "fault": "error"})).status_code == 404

    async def scenario(h: Harness) -> None:
        for body, message in (
            ({}, "missing field 'stage'"),
            ({"stage": "x", "fault": "slow"}, "stage: 'x' is not one of features, model, ledger, log"),
            ({"stage": "model", "fault": "x"}, "fault: 'x' is not one of slow, error"),
            ({"stage": "model", "fault": "slow", "seconds": -1}, "seconds: expected a number of at least 0, got -1"),
        ):
            response = await h.post("/v1/drills", body)
            assert response.status_code == 400 and message in response.json()["error"]
        await h.post("/v1/drills", {"stage": "model", "fault": "slow", "seconds": 0.2, "for_seconds": 0.3})
        assert (await h.predict())[0]["fallback_reason"] == "model_timeout"
        await asyncio.sleep(0.3)
        assert (await h.predict())[0]["expose"] and not (await h.client.get("/v1/drills")).json()["drills"]

    run(forbidden, tmp_path)
    run(scenario, tmp_path, drills=True, deadline_ms=150)


# ---- gRPC


def tensors(**texts: str) -> pb.ModelInferRequest:
    inputs = [
        pb.ModelInferRequest.InferInputTensor(
            name=name, datatype="BYTES", shape=[1], contents=pb.InferTensorContents(bytes_contents=[text.encode()])
        )
        for name, text in texts.items()
    ]
    return pb.ModelInferRequest(model_name="ads", id="q1", inputs=inputs)


def raw(**texts: str) -> pb.ModelInferRequest:
    request = tensors(**texts)
    for tensor in request.inputs:
        tensor.ClearField("contents")
        text = texts[tensor.name].encode()
        request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
    return request


def test_grpc_goes_through_the_same_door(tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text(TOKEN)
    import orjson

    good = {"user_id": "u1", "campaign_id": "spring", "context": orjson.dumps(CONTEXT).decode()}
    metadata = [("authorization", f"Bearer {TOKEN}")]

    async def scenario(h: Harness) -> None:
        await h.post("/v1/models/ads:predict", BODY)  # registers the model
        async with (
            GrpcServer(kserve(), h.gateway, "127.0.0.1", 0) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            stub = GRPCInferenceServiceStub(channel)
            assert (await stub.ServerLive(pb.ServerLiveRequest())).live
            for request in (tensors(**good), raw(**good)):
                answer = await stub.ModelInfer(request, metadata=metadata)
                found = {output.name: output for output in answer.outputs}
                assert found["channel"].contents.bytes_contents == [b"video"]
            assert len(h.records()) == 2
            faults = (
                (tensors(**good), None, grpc.StatusCode.UNAUTHENTICATED),
                (tensors(user_id="u1"), metadata, grpc.StatusCode.INVALID_ARGUMENT),
                (tensors(**{**good, "context": "{"}), metadata, grpc.StatusCode.INVALID_ARGUMENT),
                (pb.ModelInferRequest(model_name="ads"), metadata, grpc.StatusCode.INVALID_ARGUMENT),
                (pb.ModelInferRequest(model_name="absent"), metadata, grpc.StatusCode.NOT_FOUND),
            )
            for request, given_metadata, code in faults:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ModelInfer(request, metadata=given_metadata)
                assert caught.value.code() == code, caught.value
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="ads"))
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            h.gateway.decisions.limit = 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ModelInfer(tensors(**good), metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    run(scenario, tmp_path, auth={"kind": "token", "file": "token.txt"})
