"""Puts a router under mixed load for minutes, to check that no request fails and no resource leaks (a soak test).

    python benchmarks/soak.py --run runs/latest                       # five minutes
    python benchmarks/soak.py --run runs/latest --seconds 30          # a short run

A model worker is killed every minute. The script exits with 1 if requests fail or resources leak.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from _environment import environment, finish, parser

from benchmarks._markdown import Figures, measured_on, table
from benchmarks.request_path.load import Plan
from benchmarks.scale_runs.market import outcome
from benchmarks.serving import family, load, memory_mib, users_windows

CONNECTIONS = 4
# Measure growth from this share of the run on, because caches fill up before.
SETTLED = 0.2
# Allowed growth of memory per record: an index entry and a cached response.
MOST_BYTES_A_RECORD = 1000.0


class Callers:
    """Two threads that call the router: one with valid requests and outcomes, and one with invalid requests."""

    def __init__(self, url: str, bodies: list[str]) -> None:
        self._path = urlsplit(url).path
        self._url = url.removesuffix(self._path)
        self._bodies = [json.loads(body) for body in bodies]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(work,)) for work in (self._decently, self._rudely)]
        self.statuses: Counter[str] = Counter()

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _call(self, work: Callable[[httpx.Client, random.Random, int], None]) -> None:
        with httpx.Client(base_url=self._url, timeout=10, headers={"content-type": "application/json"}) as client:
            chance, number = random.Random(1), 0
            while not self._over.is_set():
                number += 1
                work(client, chance, number)

    def _decently(self, client: httpx.Client, chance: random.Random, number: int) -> None:
        body = chance.choice(self._bodies)
        body["instances"][0]["request_id"] = f"soak-{number}"
        # The router answers the second request, with the same id, from its cache.
        for _ in range(2):
            answer = self._post(client, self._path, json.dumps(body).encode(), "decisions")
        for decision in json.loads(answer).get("predictions", []):
            if decision["expose"]:
                events = [outcome(decision["decision_id"], kind, 0.01) for kind in ("cost", "click")]
                self._post(client, "/v1/outcomes", json.dumps({"outcomes": events}).encode(), "outcomes")

    def _rudely(self, client: httpx.Client, chance: random.Random, _: int) -> None:
        paths = [self._path, "/v1/outcomes", "/v2/models/ads/infer", "/v1/models/none:predict", "/v2/models/%ff/infer"]
        good = json.dumps(chance.choice(self._bodies)).encode()
        cut, at = chance.randrange(len(good)), chance.randrange(len(good))
        rubbish = [
            good[:cut],
            good[:at] + chance.randbytes(1) + good[at + 1 :],
            chance.randbytes(chance.randrange(200)),
            json.dumps({"instances": [{"user_id": chance.random()}] * chance.randrange(100)}).encode(),
            b"[" * chance.randrange(5000),
            b" " * chance.randrange(2_000_000),
        ]
        self._post(client, chance.choice(paths), chance.choice(rubbish), "rubbish")
        time.sleep(0.005)

    def _post(self, client: httpx.Client, path: str, body: bytes, what: str) -> bytes:
        try:
            answer = client.post(path, content=body)
        except httpx.HTTPError as error:
            if not self._over.is_set():
                self.statuses[f"{what} {type(error).__name__}"] += 1
            return b"{}"
        self.statuses[f"{what} {answer.status_code}"] += 1
        return answer.content


def descriptors(pid: int) -> int:
    return sum(member.num_fds() for member in family([pid]))


def kill_a_worker(pid: int) -> None:
    if workers := [p for p in family([pid]) if any("model_service_worker" in word for word in p.cmdline())]:
        random.choice(workers).send_signal(signal.SIGKILL)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--run", default="runs/latest", help="folder of a finished run")
    options.add_argument("--seconds", type=float, default=300.0, help="duration (default: %(default)g)")
    arguments = options.parse_args()

    from benchmarks.request_path.servers import router, samples

    run = Path(arguments.run).resolve()
    _, _, bodies = users_windows(run)
    seen: list[dict[str, float]] = []
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, router(run, Path(folder) / "soak", on_redis=False) as path:
        pid = path.router_pid
        (servers,) = (other for other in path.pids if other != pid)

        def drive() -> None:
            measured.update(load(Plan(path.url, bodies, CONNECTIONS, arguments.seconds), [pid]))

        started, killed = time.monotonic(), 0
        driver = threading.Thread(target=drive)
        with Callers(path.url, bodies) as callers:
            driver.start()
            while driver.is_alive():
                seconds = time.monotonic() - started
                records = sum(one.value for one in samples(path.url) if one.name == "mtorl_spool_records_total")
                sample = {"memory_mib": memory_mib([pid]), "descriptors": descriptors(pid), "records": records}
                seen.append({"seconds": seconds, **sample})
                print(f"{seconds:4.0f} s  " + "  ".join(f"{name} {value:,.0f}" for name, value in sample.items()))
                if seconds > 60 * (killed + 1):
                    kill_a_worker(servers)
                    killed += 1
                driver.join(5.0)
    statuses = Counter({f"load {status}": count for status, count in measured["statuses"].items()}) + callers.statuses
    later = [sample for sample in seen if sample["seconds"] >= SETTLED * arguments.seconds]
    first, last = later[0], later[-1]
    records = last["records"] - first["records"]
    figures = {
        "seconds": arguments.seconds,
        "statuses": dict(sorted(statuses.items())),
        "fallbacks": measured["fallbacks"],
        "broken_connections": measured["broken_connections"],
        "workers_killed": killed,
        "records": last["records"],
        "memory_mib": [first["memory_mib"], last["memory_mib"]],
        "bytes_a_record": 2**20 * (last["memory_mib"] - first["memory_mib"]) / max(records, 1.0),
        "descriptors": [min(s["descriptors"] for s in later), max(s["descriptors"] for s in later)],
        "environment": environment("kserve", "torchserve"),
    }
    print(soak_table(figures))
    finish(figures, arguments.json)
    bad = [name for name in statuses if name.split(" ")[1].startswith("5") or not name.split(" ")[1].isdigit()]
    grown = figures["descriptors"][1] - figures["descriptors"][0]
    if bad or measured["broken_connections"] or grown > 20 or figures["bytes_a_record"] > MOST_BYTES_A_RECORD:
        print(f"failed: {', '.join(bad) or 'descriptors or memory grow, or connections broke'}", file=sys.stderr)
        sys.exit(1)


def soak_table(result: Figures) -> str:
    answers: dict[str, str] = {}
    for name, count in result["statuses"].items():
        what, status = name.split(" ")
        answers[what] = ", ".join(filter(None, [answers.get(what), f"{count:,} x {status}"]))
    rows = [
        ["decisions in a closed loop, answers", answers["load"]],
        ["of them default actions", f"{sum(result['fallbacks'].values()):,}"],
        ["decisions with a request id, asked twice", answers["decisions"]],
        ["outcomes", answers.get("outcomes", "none")],
        ["requests that are none", answers["rubbish"]],
        ["model workers killed", str(result["workers_killed"])],
        ["records logged", f"{result['records']:,.0f}"],
        ["file descriptors, least and most", "{}, {}".format(*result["descriptors"])],
        ["memory after a fifth of the time and at the end, MiB", "{:.0f}, {:.0f}".format(*result["memory_mib"])],
        ["growth for a record, bytes", f"{result['bytes_a_record']:.0f}"],
    ]
    return table([f"{result['seconds']:.0f} s", ""], rows) + measured_on(result, "soak.py")


if __name__ == "__main__":
    main()
