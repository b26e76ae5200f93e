"""Sends traffic to two routers that share a ledger and a lake, and checks that no record is lost or doubled.

Some decisions are requested again from the same or the other router, and some costs and clicks are reported twice.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks._process import redis_server, run
from benchmarks.scale_runs.market import CAMPAIGNS, CAP, WINDOW_SHARE, instances, outcome, router
from mtorl.log.records import Kind
from serving.router.flow import idempotency_cache

# Decisions in a request, and requests at the same time.
PART, WORKERS = 20, 4
# Share of the exposures for which the budgets suffice.
PAID_SHARE = 0.7
UPLOAD_SECONDS = 10.0
KINDS: tuple[Kind, ...] = ("decision", "outcome", "window")
# Mean cost of an exposure, currency units.
COST = 0.03
# Seconds between two readings of the memory.
SAMPLE_SECONDS = 0.5


def play(folder: str, decisions: int) -> dict[str, Any]:
    """Send traffic to both routers, and then check that the lake and the ledger contain all that was acknowledged."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[name] = "test"
    redis = redis_server(place, appendonly="yes", appendfsync="everysec")
    with redis as port, object_store() as lake, ThreadPoolExecutor(2) as pool:
        stores = {"ledger": f"redis://127.0.0.1:{port}?name=ads", "lake": lake}
        routers = [pool.submit(run, play_one, folder=folder, number=i, decisions=decisions, **stores) for i in (0, 1)]
        found = [one.result() for one in routers]
        seconds = max(one["seconds"] for one in found)
        return {
            "seconds": seconds,
            "cpu_seconds": sum(one["cpu_seconds"] for one in found),
            "decisions": decisions,
            "window_share": WINDOW_SHARE,
            "decisions_a_second": decisions / seconds,
            "uploaded_after_seconds": max(one["uploaded_after_seconds"] for one in found),
            "memory": [one["memory"] for one in found],
            "spool_bytes": sum(one["spool_bytes"] for one in found),
            "seen": dict(sorted(sum((Counter(one["seen"]) for one in found), Counter()).items())),
            **_compared(place, **stores),
        }


def play_one(folder: str, number: int, decisions: int, ledger: str, lake: str) -> dict[str, Any]:
    return asyncio.run(_Played(Path(folder), number, decisions).run(ledger, lake))


@contextmanager
def object_store() -> Iterator[str]:
    """Start a local S3 server with a bucket, and yield the URI of a lake in it."""
    import pyarrow.fs as pafs

    from serving.local.ports import free_ports

    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    try:
        for _ in range(200):
            try:
                store, _ = pafs.FileSystem.from_uri(f"s3://ads/?{options}&allow_bucket_creation=true")
                store.create_dir("ads")
                break
            except OSError:
                time.sleep(0.1)
        yield f"s3://ads/lake?{options}"
    finally:
        server.terminate()
        server.wait()


class _Played:
    """One of the two routers, and its clients, which also send reports to the other router through a socket."""

    def __init__(self, folder: Path, number: int, decisions: int) -> None:
        self.folder, self.number, self.decisions = folder, number, decisions
        self.chance = random.Random(number)
        self.parts = iter(range(number, decisions // PART, 2))
        self.seen: Counter[str] = Counter()
        self.others_end = asyncio.Event()
        self.answers = 0
        # Pairs of the number of decisions so far, and the memory in MiB.
        self.memory: list[tuple[int, float]] = []
        # Files keep the ids of answered decisions and reports out of this process's memory.
        self.decided = (folder / f"decided-{number}.txt").open("w")
        self.reported = (folder / f"reported-{number}.txt").open("w")

    async def run(self, ledger: str, lake: str) -> dict[str, Any]:
        budget = self.decisions * COST * PAID_SHARE / CAMPAIGNS
        made = router(self.folder / f"router-{self.number}", ledger, lake, budget, upload_seconds=UPLOAD_SECONDS)
        async with made as self.router:
            server = await asyncio.start_unix_server(self._receive, self._socket(self.number), limit=2**20)
            self.other = await self._connect()
            began, cpu = time.perf_counter(), time.process_time()
            watch = asyncio.create_task(self._watch())
            await asyncio.gather(*(self._work() for _ in range(WORKERS)))
            self.other.write_eof()
            await self.others_end.wait()
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            watch.cancel()
            server.close()
            self.decided.close()
            self.reported.close()
            late = time.perf_counter()
            while any(shipper.pending for shipper in self.router.shippers.values()):
                await asyncio.sleep(0.1)
            times = {"seconds": seconds, "cpu_seconds": cpu, "uploaded_after_seconds": time.perf_counter() - late}
            # In runs of ten minutes or more, the router deletes records from the spool.
            return {**times, "memory": self._memory(), "spool_bytes": self.router.spool.size, "seen": self.seen}

    def _socket(self, number: int) -> Path:
        return self.folder / f"{number}.sock"

    async def _connect(self) -> asyncio.StreamWriter:
        while True:
            with suppress(OSError):  # the other router is not listening yet
                return (await asyncio.open_unix_connection(self._socket(1 - self.number)))[1]
            await asyncio.sleep(0.05)

    async def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.memory.append((self.answers, process.memory_info().rss / 2**20))
            await asyncio.sleep(SAMPLE_SECONDS)

    def _memory(self) -> dict[str, float]:
        """Return the memory in MiB at the start, after the cache of responses is full, and at the end."""
        full = [size for answers, size in self.memory if answers >= 2 * idempotency_cache.MOST]
        fifth = len(full) // 5
        then = {"full": median(full[:fifth]), "end": median(full[-fifth:])} if fifth else {}
        return {"begin": self.memory[0][1], **then}

    def _body(self, part: int) -> dict[str, Any]:
        """The body depends only on `part`, so that both routers can get the same request."""
        first = part * PART
        return {"instances": instances(range(first, first + PART), random.Random(part), self.decisions // 10)}

    async def _work(self) -> None:
        for part in self.parts:
            asked = self._body(part)["instances"]
            answers = await self._decide(asked)
            if again := [i for i in range(PART) if self.chance.random() < 0.02]:
                repeated = await self._decide([asked[i] for i in again])
                self.seen["repeated"] += len(again)
                self.seen["answered otherwise"] += repeated != [answers[i] for i in again]
            await self._report(answers)
            others = [one for one in self._body(part ^ 1)["instances"] if self.chance.random() < 0.01]
            if others and (part ^ 1) < self.decisions // PART:
                self.seen["repeated at the other router"] += len(others)
                await self._report(await self._decide(others))

    async def _decide(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers = await self.router.decider.decide(self.router.parser.parse({"instances": asked}))
        self.answers += len(answers)
        self.decided.writelines(f"{answer['decision_id']}\n" for answer in answers)
        return answers

    async def _report(self, answers: list[dict[str, Any]]) -> None:
        events = []
        for answer in answers:
            self.seen["exposed"] += answer["expose"]
            if (reason := answer["fallback_reason"]) is not None:
                self.seen[f"fallback {reason}"] += 1
            chance = self.chance.random()
            if not answer["expose"] or chance < 0.02:
                continue
            kinds = [("cancel", 0.0)] if chance < 0.05 else [("cost", self.chance.uniform(0.01, CAP))]
            kinds += [("click", 1.0)] if chance > 0.95 else []
            events += [outcome(answer["decision_id"], *one) for one in kinds]
        if not events:
            return
        report = json.dumps({"outcomes": events}).encode()
        if self.chance.random() < 0.5:
            await self._accept(report)
        else:
            self.other.write(report + b"\n")
            await self.other.drain()

    async def _accept(self, report: bytes) -> None:
        for _ in range(2 if self.chance.random() < 0.02 else 1):
            await self.router.outcomes.accept(report)
        self.reported.writelines(f"{event['event_id']}\n" for event in json.loads(report)["outcomes"])

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for report in reader:
            await self._accept(report)
        self.others_end.set()
        writer.close()


def _compared(place: Path, ledger: str, lake: str) -> dict[str, Any]:
    from mtorl.experiment.arm import ALL_ARMS
    from mtorl.log.lake import Lake, lake_database
    from serving.ledger import open_ledger

    read, found = Lake.open(lake), dict[str, Any]()
    with lake_database(read) as db:

        def number(sql: str) -> Any:
            ((value,),) = db.execute(f"SELECT {sql}").fetchall()
            return value

        for kind, key, said in (("decision", "decision_id", "decided"), ("outcome", "event_id", "reported")):
            acknowledged = f"SELECT DISTINCT column0 AS id FROM read_csv('{place / said}-*.txt', header = false)"
            db.execute(f"CREATE TABLE lake_{kind} AS FROM {read.records(db, kind)}")
            rows = number(f"count(*) FROM lake_{kind}")
            found[f"{kind}s_in_lake"] = rows
            found[f"{kind}s_doubled"] = rows - number(f"count(DISTINCT {key}) FROM lake_{kind}")
            found[f"{kind}s_lost"] = number(f"count(*) FROM ({acknowledged}) ANTI JOIN lake_{kind} ON id = {key}")
        # A cancelled exposure is not paid, so its request may be decided again.
        found["paid_twice"] = number(
            """count(*) FROM (
                SELECT request_id FROM lake_decision
                WHERE expose AND decision_id NOT IN (SELECT decision_id FROM lake_outcome WHERE kind = 'cancel')
                GROUP BY request_id HAVING count(*) > 1)"""
        )
        costs = number(
            """sum(value) FROM lake_outcome WHERE kind = 'cost' AND decision_id IN (
                SELECT decision_id FROM lake_decision WHERE expose)"""
        )
    balances = [one for one in open_ledger(ledger, 10.0).balances() if one.campaign != "*"]
    wholes = [one for one in balances if one.arm == ALL_ARMS]
    spent = sum(one.spent for one in wholes)
    found |= {"files": sum(len(read.arrived(kind)) for kind in KINDS)}
    found |= {"bytes": {kind: sum(file.size for file in read.arrived(kind)) for kind in KINDS}}
    found |= {"costs_in_lake": costs, "spent_in_ledger": spent, "difference": abs(costs - spent)}
    found |= {"budget": sum(one.limit for one in wholes), "accounts": len(balances)}
    over = sum(one.spent + one.reserved > one.limit + 1e-9 for one in balances)
    return {**found, "accounts_overspent": over, "excess": sum(one.excess for one in balances)}
