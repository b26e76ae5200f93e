"""Tests that each exposure is added to the user's history exactly once, in any order of events."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiohttp.test_utils import TestClient, TestServer
from feast import FeatureStore
from hypothesis import given
from hypothesis import strategies as st

from features.online.feed import Event, EventError, Feed
from features.online.history import History
from features.online.receiver import application
from mtorl.log.dataset import DatasetSpec
from mtorl.log.records import VERSION
from mtorl.log.times import microseconds
from mtorl.window.packed import served, unpack
from mtorl.window.window import HISTORY, PACKED
from serving.decision_log import Spool
from serving.decision_log.http_sink import HttpSink
from serving.decision_log.shipper import Shipper
from tests.features.collect import decision_logs
from tests.features.online_stores import apply_history, write_settings
from tests.repository import ROOT
from tests.waiting import until

DECISION, OUTCOME = f"mtorl.decision.v{VERSION}", f"mtorl.outcome.v{VERSION}"
SHOWN = datetime.fromisoformat("2026-01-01T12:01:00.000001+00:00")  # of decision("d1")
SPEC = decision_logs.SPEC.replace(context=decision_logs.SPEC.context[:2], static=())


def decision(name: str, **changes: Any) -> Event:
    number = int("".join(filter(str.isdigit, name)) or 0)
    arose, taken = (f"2026-01-01T12:{number:02d}:00.{microseconds}+00:00" for microseconds in ("000001", "004000"))
    own = {"context": {"hour": 9.0, "device": "tv"}, "request_time": arose, "event_time": taken}
    return DECISION, decision_logs.decision(name, **{**own, **changes})


def outcome(of: str, kind: str, value: float, event: str = "") -> Event:
    return OUTCOME, decision_logs.outcome(event or f"{of}-{kind}", of, kind, value)


class FakeStore:
    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.notes: dict[str, dict[str, str]] = {}
        self.faults = 0
        self.lock = threading.Lock()

    def read(self, users: Sequence[str]) -> list[bytes | None]:
        self._may_fail()
        return [self.values.get(user) for user in users]

    def swap(self, rows: Sequence[tuple[str, bytes | None, bytes, float]]) -> list[bool]:
        self._may_fail()
        with self.lock:
            same = [self.values.get(user) == old for user, old, *_ in rows]
            self.values |= {row[0]: row[2] for row, unchanged in zip(rows, same, strict=True) if unchanged}
        return same

    def note(self, rows: Sequence[tuple[str, str, str, bool]]) -> None:
        self._may_fail()
        with self.lock:
            for name, field, text, replace in rows:
                fields = self.notes.setdefault(name, {})
                fields[field] = text if replace else fields.get(field, text)

    def noted(self, places: Sequence[tuple[str, str]]) -> list[str | None]:
        self._may_fail()
        return [self.notes.get(name, {}).get(field) for name, field in places]

    def notes_of(self, names: Sequence[str]) -> list[dict[str, str]]:
        with self.lock:
            return [dict(self.notes.get(name, {})) for name in names]

    def memory(self) -> tuple[int, int] | None:
        return (7, 8)

    def close(self) -> None:
        pass

    def of(self, user: str) -> list[dict[str, Any]]:
        history = served(unpack(self.values[user])) if user in self.values else {"hist_timestamp": []}
        rows = range(len(history["hist_timestamp"]))
        return [{name.removeprefix("hist_"): values[i] for name, values in history.items()} for i in rows]

    def _may_fail(self) -> None:
        if self.faults:
            self.faults -= 1
            raise OSError("away")


def feed(folder: Path, spec: DatasetSpec = SPEC) -> tuple[Feed, FakeStore]:
    store = FakeStore()
    return Feed(History(spec, store), folder), store


EVENTS = [
    decision("d1", user_id="u1"),
    outcome("d1", "cost", 0.03),
    outcome("d1", "cost", 0.5, "a further one"),  # costs add up, as in the ledger
    outcome("d1", "click", 1.0),
    outcome("d1", "revenue", 2.0),
    outcome("d1", "revenue", 3.0, "another sale"),
    decision("d2", user_id="u1"),
    outcome("d2", "cost", 0.01),
    # The ad was not shown.
    outcome("d2", "cancel", 0.0),
    # No outcome arrives.
    decision("d3", user_id="u1"),
    decision("d4", user_id="u1"),
    decision("d4", user_id="u1", expose=False, withdrawn=True),  # withdrawn
    outcome("d4", "cost", 0.02),
    decision("d5", user_id="u2", expose=False, fallback_reason=None),  # the policy chose not to expose
    outcome("d5", "click", 1.0),
    outcome("nobody's", "click", 1.0),
    ("com.example.other", {"what": "ever"}),
    ("mtorl.shadow.v1", {"decision_id": "d1", "channel": "video", "expose": True}),
]
KNOWN = {"channel": "video", "hour": 9.0, "device": "tv", "click": 1.0, "conversion": 0.0, "revenue": 5.0}


def costs(store: FakeStore, user: str = "u1") -> list[float]:
    return [seen["cost"] for seen in store.of(user)]


def test_only_exposures_become_touchpoints(tmp_path: Path) -> None:
    made, store = feed(tmp_path)
    assert made.take(EVENTS) == 1
    assert store.of("u1") == [{**KNOWN, "cost": 0.53, "timestamp": microseconds(SHOWN)}] and store.of("u2") == []


def test_repeated_events_change_nothing_and_a_withdrawal_stays(tmp_path: Path) -> None:
    made, store = feed(tmp_path)
    made.take([decision("d1", user_id="u1"), decision("d1", user_id="u1", expose=False, withdrawn=True)])
    made.take([decision("d1", user_id="u1"), outcome("d1", "cost", 0.1)])  # shipped again after a crash
    assert not store.of("u1")
    made.take([decision("d2", user_id="u1"), outcome("d2", "revenue", 1.0, "sale"), outcome("d2", "cost", 0.1, "cost")])
    made.take(
        [outcome("d2", "cost", 0.7, "again"), outcome("d2", "cost", 0.5, "cost"), outcome("d2", "revenue", 9.0, "sale")]
    )
    assert [(seen["cost"], seen["revenue"]) for seen in store.of("u1")] == [(pytest.approx(0.8), 1.0)]


def test_an_outcome_is_known_once_the_router_has_received_it(tmp_path: Path) -> None:
    made, store = feed(tmp_path, SPEC.replace(timed=("conversion", "revenue")))

    def heard(kind: str, value: float, event: str, received: str) -> Event:
        name, record = outcome("d1", kind, value, event)
        return name, {**record, "received_time": f"2026-01-02T{received}:00+00:00"}

    made.take([decision("d1", user_id="u1"), heard("cost", 0.1, "1", "12:00")])
    for event in (
        heard("conversion", 0.0, "2", "12:10"),  # no conversion yet
        heard("conversion", 1.0, "3", "14:00"),
        heard("conversion", 1.0, "4", "13:00"),  # another router received it earlier
        heard("revenue", 2.0, "5", "14:00"),
        # The time of a sum is the time at which its last part became known.
        heard("revenue", 3.0, "6", "15:00"),
    ):
        made.take([event])
    (seen,) = store.of("u1")
    known = {kind: datetime.fromtimestamp(seen[f"{kind}_time"] / 1e6, UTC) for kind in ("conversion", "revenue")}
    assert {kind: f"{when:%H:%M}" for kind, when in known.items()} == {"conversion": "13:00", "revenue": "15:00"}


@given(st.randoms(use_true_random=False), st.integers(1, 5), st.integers(0, 3), st.integers(1, 3))
def test_order_repetition_faults_and_further_feeds_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random, size: int, faults: int, feeds: int
) -> None:
    folder = tmp_path_factory.mktemp("feed")
    made, store = feed(folder)
    several = [made, *(Feed(History(SPEC, store), folder) for _ in range(feeds - 1))]
    sent = [*EVENTS, *chance.sample(EVENTS, 5)]
    chance.shuffle(sent)
    for start in range(0, len(sent), size):
        store.faults = chance.randint(0, faults)
        while True:
            try:
                chance.choice(several).take(sent[start : start + size])
                break
            except OSError:  # not acknowledged, so the sender retries
                continue
    # An exposure may stay in the history if it arrived before its withdrawal or cancellation.
    first, *others = store.of("u1")
    assert first == {**KNOWN, "cost": pytest.approx(0.53), "timestamp": microseconds(SHOWN)}
    assert [other["cost"] for other in others] in ([], [0.01], [0.02], [0.01, 0.02])
    assert store.of("u2") == []


@pytest.mark.parametrize("step", ["note", "swap", "notes_of"])
def test_an_outcome_during_its_decision_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    made, store = feed(tmp_path)
    other, take_step, begun = Feed(History(SPEC, store), tmp_path), getattr(store, step), []

    def meanwhile(*arguments: Any) -> Any:
        if not begun:
            begun.append(step)
            other.take([outcome("d1", "cost", 0.5)])
        return take_step(*arguments)

    monkeypatch.setattr(store, step, meanwhile)
    made.take([decision("d1", user_id="u1")])
    assert begun and costs(store) == [0.5]


def test_touchpoints_from_a_log_are_not_added_again(tmp_path: Path) -> None:
    made, store = feed(tmp_path)
    history = History(SPEC, store)
    values = {"hist_timestamp": float(microseconds(SHOWN)), "hist_channel": "video", "hist_click": 0.0}
    values |= {"hist_conversion": 0.0, "hist_revenue": 5.0, "hist_cost": 0.53, "hist_hour": 9.0, "hist_device": "tv"}
    logged = pa.RecordBatch.from_pylist([{"user_id": "u1", **values}])
    history.merge([logged])
    made.take(EVENTS[:6])
    assert store.of("u1") == [{**KNOWN, "cost": 0.53, "timestamp": microseconds(SHOWN)}]
    # In the other order, the log contains some outcomes that the feed has written.
    again, store = feed(tmp_path)
    again.take(EVENTS[:4])
    History(SPEC, store).merge([logged])
    again.take(EVENTS[:6])
    assert store.of("u1") == [{**KNOWN, "cost": 0.53, "timestamp": microseconds(SHOWN)}]


def test_a_decision_without_outcomes_displaces_no_touchpoint(tmp_path: Path) -> None:
    made, store = feed(tmp_path, SPEC.replace(window=2))
    made.take([e for i in (1, 2) for e in (decision(f"d{i}", user_id="u1"), outcome(f"d{i}", "cost", i / 10))])
    made.take([decision(f"d{i}", user_id="u1") for i in (3, 4, 5)])
    assert costs(store) == [0.1, 0.2]
    made.take([outcome("d4", "cost", 0.4)])
    assert costs(store) == [0.2, 0.4]


@pytest.mark.parametrize(
    "event",
    [
        (DECISION, None),
        (DECISION, {"decision_id": "d"}),
        (OUTCOME, {**outcome("d1", "cost", 1.0)[1], "decision_id": 7}),
        *(
            (OUTCOME, {**outcome("d1", "cost", 1.0)[1], "value": v})
            for v in ("much", "1_000", True, None, 10**400, 1e10, float("nan"))
        ),
        (DECISION, {**decision("d1")[1], "event_time": "yesterday"}),
        (DECISION, {**decision("d1")[1], "request_time": 7}),
        (OUTCOME, {**outcome("d1", "cost", 1.0)[1], "received_time": "soon"}),
        (DECISION, {**decision("d1")[1], "context": "none"}),
        ("mtorl.policy.decision.v2", decision("d1")[1]),
    ],
)
def test_an_invalid_event_refuses_its_whole_batch(tmp_path: Path, event: Event) -> None:
    made, store = feed(tmp_path)
    with pytest.raises(EventError):
        made.take([decision("d2"), outcome("d2", "cost", 0.1), event])
    assert not store.values and not store.notes


async def test_all_forms_of_an_event_and_their_responses(tmp_path: Path) -> None:
    made, history = feed(tmp_path)
    async with TestClient(TestServer(application(made))) as client:

        async def post(body: Any, kind: str = "application/json", **headers: str) -> int:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            async with client.post("/", data=data, headers={"content-type": kind, **headers}) as response:
                return response.status

        one, two, three = decision("d1"), outcome("d1", "cost", 0.1), outcome("d1", "click", 1.0)
        batch = [{"specversion": "1.0", "type": one[0], "data": one[1]}]
        assert await post(batch, "application/cloudevents-batch+json") == 204
        assert await post({"type": two[0], "data": two[1]}, "application/cloudevents+json") == 204
        assert await post(three[1], **{"ce-type": three[0]}) == 204
        assert [seen["click"] for seen in history.of(one[1]["user_id"])] == [1.0]
        for bad in ({}, [], b"{", b"\xff"):
            assert await post(bad) == 400
        assert await post({}, "application/cloudevents-batch+json") == 400
        assert await post([7], "application/cloudevents-batch+json") == 400
        assert await post(b"[" * 100_000) == 400
        # No store can write a user id that isn't valid UTF-8.
        nobody = {**one[1], "decision_id": "d9", "user_id": "\ud800"}
        assert await post(nobody, **{"ce-type": DECISION}) == 400
        assert await post(decision("d3", user_id="u3")[1], **{"ce-type": DECISION}) == 204
        history.faults = 1
        async with client.post("/", json=outcome("d3", "cost", 0.1)[1], headers={"ce-type": OUTCOME}) as response:
            assert response.status == 503 and response.headers["Retry-After"]
        assert await post(outcome("d3", "cost", 0.1)[1], **{"ce-type": OUTCOME}) == 204
        assert len(history.of("u3")) == 1
        async with client.get("/health") as response:
            assert response.status == 200
        async with client.get("/metrics") as response:
            assert "\nmtorl_online_store_used_bytes 7\n" in await response.text()


@pytest.mark.integration
async def test_from_the_decision_log_into_the_history_that_feast_serves(tmp_path: Path) -> None:
    repo, port = tmp_path / "repo", 0
    write_settings(repo, "sqlite")
    apply_history(repo, SPEC)
    SPEC.save(tmp_path / "dataset.yaml")

    def start() -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, "-m", "cli.main", "feed", "--feature-repo", str(repo), "--port", str(port)]
        command += ["--dataset", str(tmp_path / "dataset.yaml")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("feed ready http://127.0.0.1:"), ready
        return process, int(ready.rsplit(":", 1)[1])

    process, port = start()

    async def ship(spool: Spool) -> None:
        shipper = Shipper(spool, HttpSink(f"http://127.0.0.1:{port}/", "/test"), "sent.json")
        shipper.start()
        await until(lambda: not shipper.pending)
        await shipper.close(1.0)

    spool = Spool(tmp_path / "spool")
    for i in range(10):
        spool.submit("decision", decision(f"d{i}", user_id="u1")[1]).result()
        spool.submit("outcome", outcome(f"d{i}", "cost", 0.1)[1]).result()
    await ship(spool)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process, port = start()
    for i in range(10):
        spool.submit("outcome", outcome(f"d{i}", "click", float(i % 2))[1]).result()
    await ship(spool)
    spool.close()
    body = urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).read()
    assert json.loads(body) == {"live": True}
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    answer = FeatureStore(repo_path=str(repo)).get_online_features([f"{HISTORY}:{PACKED}"], [{"user_id": "u1"}])
    stored = served(unpack(answer.to_dict()[PACKED][0]))
    assert stored["hist_channel"] == ["video"] * 10 and stored["hist_click"] == [0.0, 1.0] * 5
    assert stored["hist_cost"] == [0.1] * 10 and stored["hist_timestamp"] == sorted(set(stored["hist_timestamp"]))
