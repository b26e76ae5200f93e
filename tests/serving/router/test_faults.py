"""Test that kills parts of a running installation: every request is answered, and ledger and log agree."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest

from serving.decision_log import Spool
from serving.ledger import open_ledger
from serving.local.ports import free_ports
from serving.local.stack import LocalStack
from tests.redis_server import redis_server
from tests.serving.router_fixtures import event
from tests.serving.small_run import small_run
from tests.waiting import eventually

pytestmark = pytest.mark.integration

_CLIENTS = 6
_CAP = 500.0  # budget of each arm


class Traffic:
    """Callers that request decisions and report costs, and retry with the same request id after a fault."""

    def __init__(self, url: str, run: Path) -> None:
        log = pd.read_parquet(run / "data" / "touchpoints.parquet")
        self._url = url
        self._users = list(log["user_id"].unique())
        self._context = {"hour": 12, "device": log["device"].iloc[0], "placement": log["placement"].iloc[0]}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(_CLIENTS)]
        self.statuses: Counter[int] = Counter()
        self.reasons: Counter[str | None] = Counter()
        self.exposed: dict[str, float | None] = {}  # decision -> reported cost
        self.broken = 0

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        chance, calls = random.Random(number), 0
        with httpx.Client(timeout=60) as client:
            while not self._over.is_set():
                calls += 1
                instance = {"user_id": chance.choice(self._users), "campaign_id": "c1", "context": self._context}
                instance["request_id"] = f"{number}-{calls}"
                answer = self._post(client, "/v1/models/ads:predict", {"instances": [instance]})
                if answer is None:
                    continue
                (decision,) = answer["predictions"]
                self.reasons[decision["fallback_reason"]] += 1
                if not decision["expose"]:
                    continue
                cost = round(chance.random(), 3) if chance.random() < 0.8 else None
                self.exposed[decision["decision_id"]] = cost
                if cost is not None:
                    reported = event(decision["decision_id"], value=cost, event_id=f"cost-{number}-{calls}")
                    self._post(client, "/v1/outcomes", {"outcomes": [reported]})

    def _post(self, client: httpx.Client, path: str, body: Any) -> Any:
        for _ in range(3000):
            try:
                response = client.post(self._url + path, json=body)
            except httpx.HTTPError:
                self.broken += 1
                time.sleep(0.1)
                continue
            self.statuses[response.status_code] += 1
            if response.status_code == 200:
                return response.json()
            time.sleep(0.05)
        return None


def check_books(where: str | None, run: Path, traffic: Traffic) -> None:
    ledger = open_ledger(where or str(run / "serving" / "ledger.sqlite"), 5.0)
    with ExitStack() as stack:
        spool = Spool(run / "serving" / "spool")
        stack.callback(spool.close)
        records = {record["decision_id"]: record for record in spool.read("decision")}
        costs = {o["decision_id"]: o["value"] for o in spool.read("outcome") if o["kind"] == "cost"}
    assert {name for name in traffic.exposed if records[name]["expose"]} == set(traffic.exposed)
    assert {name: cost for name, cost in traffic.exposed.items() if cost is not None} == costs
    spent: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for name, record in records.items():
        if record["expose"]:
            for arm in (record["arm"], "*"):
                (spent if name in costs else held)[arm] += min(costs.get(name, 1.0), record["reserved"])
    for balance in ledger.balances():
        assert balance.spent + balance.reserved <= balance.limit == (2 * _CAP if balance.arm == "*" else _CAP)
        arm = balance.arm.rpartition("/")[2]
        assert balance.spent == pytest.approx(spent[arm], abs=1e-6)
        assert balance.reserved == pytest.approx(held[arm], abs=1e-6)


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Yield the ledger's URL and a function that restarts it, or None twice for the run's file."""
    if request.param == "sqlite":
        yield None, None
        return
    (port,) = free_ports(1)
    (tmp_path / "redis").mkdir()
    running = ExitStack()

    def start() -> None:
        server = redis_server(tmp_path / "redis", port, appendonly="yes", appendfsync="always")
        running.enter_context(server)

    def restart() -> None:
        for process in psutil.process_iter():
            if process.name() == "redis-server" and " ".join(process.cmdline()).strip().endswith(f":{port}"):
                process.kill()
        time.sleep(0.5)
        start()

    start()
    url = f"redis://127.0.0.1:{port}/0?name=faults"
    yield url, restart
    running.close()


def mostly_decided(traffic: Traffic) -> bool:
    before = Counter(traffic.reasons)
    time.sleep(3)
    during = Counter(traffic.reasons) - before
    return during[None] > 0.8 * during.total() > 0


def test_killed_parts_cost_no_answer_and_no_money(tmp_path: Path, store: Any) -> None:
    where, restart_redis = store
    run = small_run(tmp_path)
    (port,) = free_ports(1)
    with LocalStack(run, router_port=port, ledger=where) as stack, Traffic(stack.url, run) as traffic:
        time.sleep(3)
        for process in psutil.Process(stack.pids["models"]).children(recursive=True):
            if any("model_service_worker" in part for part in process.cmdline()):
                process.kill()  # TorchServe restarts it
        if restart_redis:
            time.sleep(3)
            restart_redis()
        eventually(lambda: mostly_decided(traffic) and traffic.reasons[None] > 50, 240, lambda: traffic.reasons)
        # A busy host may answer with 429, but rarely, because the failure of a part must not look like high load.
        statuses = Counter(traffic.statuses)
        assert traffic.broken == 0 and set(statuses) <= {200, 429, 503} and statuses[429] < statuses[200], statuses
        os.killpg(stack.pids["router"], signal.SIGKILL)
        eventually(lambda: traffic.broken > 0)
        stack.stop()
        stack.start()
        answered = traffic.statuses[200]
        eventually(lambda: traffic.statuses[200] > answered + 50, 240)
    check_books(where, run, traffic)
