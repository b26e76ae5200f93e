"""Several router processes on one port: one budget, one log to read, one answer about both."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import httpx
import prometheus_client
import psutil
import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram, values
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.decision_log import Spool, segments, workers
from serving.decision_log.export import export_parquet
from serving.ledger import Account, SqliteLedger, open_ledger
from serving.local.ports import free_ports
from serving.router.http.workers import _Process, supervise
from serving.router.ops import shared_metrics
from serving.router.ops.settings import RouterSettings, SettingsError
from serving.router.ops.shared_metrics import SharedMetrics
from serving.router.ops.worker import Worker
from tests.redis_server import redis_server
from tests.repository import ROOT
from tests.serving.router_fixtures import Harness, full_disk, instance, run, write_settings
from tests.serving.router_process import Process
from tests.serving.shipping import RECORDS, put

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")
REDIS = "redis://127.0.0.1:9/0?name=ads"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "ledger .*ledger.sqlite is a file.*mtorl ledger move .*ledger.sqlite 'redis://"),
        ({"ledger": REDIS, "drills": True}, "drills"),
    ],
)
def test_what_several_processes_cannot_have_is_said_before_one_starts(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        supervise(write_settings(tmp_path, "http://x", {}, **settings), 2)
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize("name", ["port", "grpc_port"])
@pytest.mark.parametrize("shares", [0, 1])
def test_a_port_that_somebody_else_has_is_named(tmp_path: Path, name: str, shares: int) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = write_settings(tmp_path, "http://x", {}, ledger=REDIS, **{name: port})
        with pytest.raises(SettingsError, match=f"{name}: can't listen on 127.0.0.1:{port}: Address already in use"):
            supervise(settings, 2)


def test_a_worker_is_told_all_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = {"kind": "header", "name": "x-user", "values": ["a", "b"]}
    given = write_settings(tmp_path, "http://x", {}, auth=auth, cost_cap={"search": 1e-5, "video": 2.0}, sink="log")
    monkeypatch.setenv("MTORL_SINK", "elsewhere")  # has had its effect already
    assert RouterSettings.of_text(given.text()) == given
    worker = Worker(1, 2, False, tmp_path)
    assert Worker.parse(worker.text()) == worker


def test_a_worker_that_ends_at_once_is_started_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, told = [0.0], list[dict[str, Any]]()

    class Ended:
        def __init__(self, command: list[str], **_: Any) -> None:
            told.append(json.loads(command[-1]))
            self.stdin = io.StringIO()

        def poll(self) -> int:
            return 1

    monkeypatch.setattr(subprocess, "Popen", Ended)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    process = _Process(Worker(0, 2, True, tmp_path), write_settings(tmp_path, "http://x", {}, ledger=REDIS))
    starts = list[float]()
    for _ in range(4 * 150):
        before = len(told)
        process.look()
        starts += [now[0]] * (len(told) - before)
        now[0] += 0.25
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses == sorted(pauses) and pauses[0] < 1 and 30 <= pauses[-1] < 31
    assert [one["listens_at_once"] for one in told] == [True] + [False] * (len(told) - 1)


@pytest.fixture(autouse=True)
def _values_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a router: here, whoever imported Feast first has let a process keep all its metrics in the same files."""
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)


class Counted:
    """What one worker counts."""

    def __init__(self, folder: Path, number: int) -> None:
        own = CollectorRegistry()
        self.decisions = prometheus_client.Counter("decisions", "Decisions", ["arm"], registry=own)
        self.spent = Gauge("spent", "Spent", ["arm"], registry=own)
        self.latency = Histogram("latency", "Latency", buckets=(1.0, 2.0), registry=own)
        self.shared = SharedMetrics(folder, number, own)

    def sample(self, name: str, **labels: str) -> float | None:
        text = generate_latest(self.shared).decode()  # type: ignore[arg-type]  # it calls `collect` alone
        found = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return next((s.value for s in found if s.name == name and s.labels == labels), None)


def test_a_worker_that_can_write_nothing_still_tells_its_own_metrics_and_what_the_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Counted(tmp_path, 0), Counted(tmp_path, 1)
    one.decisions.labels("a").inc(3)
    other.decisions.labels("a").inc(4)
    other.shared.publish()
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: full_disk(0, data))
    for _ in range(2):
        assert one.sample("decisions_total", arm="a") == 7
        with pytest.raises(OSError, match="No space left"):
            one.shared.publish()


def test_any_worker_tells_the_metrics_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Counted(tmp_path, 0), Counted(tmp_path, 1)
    one.decisions.labels("a").inc(3)
    one.spent.labels("a").set(5)
    other.decisions.labels("a").inc(4)
    other.decisions.labels("b").inc()
    other.spent.labels("a").set(6)
    for value in (0.5, 1.5):
        other.latency.observe(value)
    one.latency.observe(1.5)
    other.shared.publish()
    for _ in range(2):  # asking changes nothing
        assert one.sample("decisions_total", arm="a") == 7 and one.sample("decisions_total", arm="b") == 1
        assert one.sample("latency_bucket", le="2.0") == 3 and one.sample("latency_sum") == 3.5
        assert one.sample("spent", arm="a", worker="0") == 5 and one.sample("spent", arm="a", worker="1") == 6
        assert one.sample("spent", arm="a") is None
    one.spent.remove("a")
    assert other.sample("decisions_total", arm="a") == 7
    assert one.sample("spent", arm="a", worker="0") is None
    assert other.sample("spent", arm="a", worker="0") is None

    again = Counted(tmp_path, 1)  # the worker was killed
    assert again.sample("decisions_total", arm="a") == 7
    again.decisions.labels("a").inc()
    for _ in range(2):
        assert again.sample("decisions_total", arm="a") == 8 and one.sample("decisions_total", arm="a") == 8
    assert again.sample("latency_count") == 3

    monkeypatch.setattr(shared_metrics, "_OLD_SECONDS", -1.0)
    assert one.sample("decisions_total", arm="a") == 8, "what a worker that is gone has counted stays"
    assert one.sample("spent", arm="a", worker="1") is None


def test_the_first_worker_settles_and_ships_what_others_have_left(tmp_path: Path) -> None:
    left = Spool(workers.folder_of(tmp_path / "spool", 1))
    put(left, "decision", "d1", expose=True, reservation_id="d1")
    cost = {"event_id": "e1", "decision_id": "d1", "kind": "cost", "value": 0.02}
    left.submit("outcome", {**RECORDS["outcome"], **cost}).result(60)
    left.close()
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.define([Account("*", "*", "*", 100.0)])
    for reservation in ("d1", f"{left.identity}-never-logged", "another's"):
        assert ledger.reserve(reservation, "*", "spring", "video", 0.05)
    ledger.close()
    in_use = Spool(workers.folder_of(tmp_path / "spool", 2))

    async def scenario(h: Harness) -> None:
        await h.until(lambda: h.ledger.open_reservations() == ["another's"])
        in_use.close()  # that worker was still ending
        await h.until(lambda: len(h.router._left.shippers) == 2)

    run(scenario, tmp_path, sink="log")
    shipped = duckdb.sql(f"SELECT decision_id FROM '{tmp_path}/log/decisions/*/*/*.parquet'").fetchall()
    assert shipped == [("d1",)]
    assert duckdb.sql(f"SELECT event_id FROM '{tmp_path}/log/outcomes/*/*/*.parquet'").fetchall() == [("e1",)]


@pytest.mark.integration
def test_two_workers_share_port_and_budget_and_survive_what_is_killed(feast_repo: Path, tmp_path: Path) -> None:
    (tmp_path / "features").symlink_to(feast_repo)
    with redis_server(tmp_path, appendonly="yes") as port:
        url = f"redis://127.0.0.1:{port}/0?name=ads"
        ledger, answered = open_ledger(url, patience=10.0), list[str]()
        with Process(tmp_path, workers=2, ledger=url, sink="log", grpc_port=free_ports(1)[0]) as process:
            # A repeat that reaches the other worker is paid for once.
            repeats = {process.predict(instance("u1", request_id="r"))[0]["decision_id"] for _ in range(20)}
            paid = [record for record in all_logged(tmp_path) if record["request_id"] == "r" and record["expose"]]
            assert len(repeats) == 2 and len(paid) == 1

            with load(process, answered) as statuses:
                eventually(lambda: all(len(logged(folder)) > 20 for folder in folders(tmp_path)))
                victim = psutil.Process(process.router.pid).children()[-1]
                before = counted(process)
                victim.kill()
                process.said("router ready http://127.0.0.1:")  # it is there again
                here = len(logged(folders(tmp_path)[1]))
                eventually(lambda: len(logged(folders(tmp_path)[1])) > here + 20)
            assert set(statuses) <= {200, 429}, statuses
            assert 0 < before <= counted(process)
            two = [child.pid for child in psutil.Process(process.router.pid).children()]
            assert len(two) == 2 and victim.pid not in two

            process.router.terminate()
            assert process.router.wait(60) == 0
        assert not any(map(psutil.pid_exists, two))
        lines = [json.loads(line) for line in (tmp_path / "router.log").read_text().splitlines()]
        assert {line.get("worker") for line in lines} == {None, 0, 1}, "None: who starts them"
        records = {record["decision_id"]: record for record in all_logged(tmp_path)}
        assert records.keys() >= set(answered)
        exposed = {name for name, record in records.items() if record["expose"]}
        assert set(ledger.open_reservations()) == exposed
        reserved = sum(record["reserved"] for record in records.values() if record["expose"])
        whole = next(balance for balance in ledger.balances() if balance.arm == "*")
        assert whole.reserved == pytest.approx(reserved) and whole.reserved <= whole.limit


@pytest.mark.integration
def test_of_a_killed_router_no_worker_stays_and_one_process_goes_on_with_all(
    feast_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what was killed leaves a folder there
    (tmp_path / "features").symlink_to(feast_repo)
    with redis_server(tmp_path, appendonly="yes") as port:
        url = f"redis://127.0.0.1:{port}/0?name=ads"
        ledger, answered = open_ledger(url, patience=10.0), list[str]()
        with Process(tmp_path, workers=2, ledger=url, sink="log") as process, load(process, answered):
            eventually(lambda: all(len(logged(folder)) > 20 for folder in folders(tmp_path)))
            children = psutil.Process(process.router.pid).children(recursive=True)
            process.router.kill()
            _, left = psutil.wait_procs(children, timeout=60)
            assert not left
        with Process(tmp_path, ledger=url, sink="log") as process:
            process.said("took over the log of a worker of before")
            process.router.terminate()
            assert process.router.wait(60) == 0
        shipped = duckdb.sql(f"SELECT decision_id, expose FROM '{tmp_path}/log/decisions/*/*/*.parquet'").fetchall()
        assert {name for name, _ in shipped} >= set(answered)
        assert set(ledger.open_reservations()) == {name for name, expose in shipped if expose}
        export_parquet(tmp_path / "spool", tmp_path / "exported")
        everything = duckdb.sql(f"SELECT decision_id FROM '{tmp_path}/exported/decisions.parquet'").fetchall()
        assert {name for (name,) in everything} == {name for name, _ in shipped}


@pytest.mark.integration
def test_wrong_settings_end_all(tmp_path: Path) -> None:
    write_settings(tmp_path, "http://127.0.0.1:9", {}, ledger=REDIS)
    command = [sys.executable, "-m", "serving.router", "--run-config", str(tmp_path / "router.yaml"), "--workers", "2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 2 and "feature_repo" in ended.stderr, ended.stderr


def folders(folder: Path) -> list[Path]:
    return [workers.folder_of(folder / "spool", number) for number in range(2)]


def logged(folder: Path) -> list[dict[str, Any]]:
    return list(segments.read(folder, "decision"))


def all_logged(folder: Path) -> list[dict[str, Any]]:
    return [record for one in folders(folder) for record in logged(one)]


def metrics(process: Process) -> str:
    return httpx.get(f"{process.url}/metrics").text


def counted(process: Process) -> float:
    """Decisions, as whichever worker says it."""
    found = [s for family in text_string_to_metric_families(metrics(process)) for s in family.samples]
    return sum(sample.value for sample in found if sample.name == "mtorl_decisions_total")


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@contextlib.contextmanager
def load(process: Process, answered: list[str]) -> Iterator[Counter[int]]:
    """Ask for decisions meanwhile, each over a connection of its own; the answers' statuses, and the decisions."""
    over, statuses = threading.Event(), Counter[int]()

    def ask(caller: int) -> None:
        for i in itertools.count():
            if over.is_set():
                return
            body = {"instances": [instance(f"{caller}-{i}")]}
            try:
                answer = httpx.post(f"{process.url}/v1/models/ads:predict", json=body, timeout=60)
            except httpx.TransportError:  # a connection to what was killed
                time.sleep(0.01)
                continue
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                answered.extend(one["decision_id"] for one in answer.json()["predictions"])

    callers = [threading.Thread(target=ask, args=(caller,)) for caller in range(4)]
    for caller in callers:
        caller.start()
    try:
        yield statuses
    finally:
        over.set()
        for caller in callers:
            caller.join()
