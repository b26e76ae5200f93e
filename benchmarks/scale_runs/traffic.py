"""Traffic of two routers that share a ledger on Redis and a lake in an object store, and what became of each of it.

Requests come in parts of twenty, as fast as the routers of one process answer. One in fifty is repeated at its router,
one in a hundred at the other. Costs and clicks are reported to either router, one in fifty twice; some exposures are
cancelled, some never reported. Budgets pay for part of the exposures only, so the cap is met.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks._process import redis_server
from benchmarks.scale_runs.market import CAMPAIGNS, CAP, WINDOW_SHARE, instances, router
from mtorl.log.records import Kind
from serving.router.router import Router

PART, WORKERS = 20, 4  # instances of a request; requests at once
PAID_SHARE = 0.7  # of the exposures that the budgets pay for
UPLOAD_SECONDS = 10.0
KINDS: tuple[Kind, ...] = ("decision", "outcome", "window")
COST = 0.03  # on average


def play(folder: str, decisions: int) -> dict[str, Any]:
    """Play traffic, let the routers end, and compare the lake and the ledger with what was acknowledged."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[name] = "test"
    flags = ("--appendonly", "yes", "--appendfsync", "everysec")
    with redis_server(place, *flags) as at, object_store() as lake:
        return asyncio.run(_Played(place, f"redis://{at}?name=ads", lake, decisions).run())


@contextmanager
def object_store() -> Iterator[str]:
    """A server that speaks S3 in a process of its own; gives the URI of a lake in its one bucket."""
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
    def __init__(self, folder: Path, ledger: str, lake: str, decisions: int) -> None:
        self.folder, self.ledger, self.lake, self.decisions = folder, ledger, lake, decisions
        self.budget = decisions * COST * PAID_SHARE / CAMPAIGNS
        self.chance = random.Random(1)
        self.numbers = iter(range(0, decisions, PART))
        self.seen: Counter[str] = Counter()
        self.done = 0
        self.routers: list[Router] = []
        self.memory: list[tuple[float, float]] = []  # share of the decisions, MiB
        self.decided = (folder / "decided.txt").open("w")  # ids that were acknowledged: on disk, not in this memory
        self.reported = (folder / "reported.txt").open("w")

    async def run(self) -> dict[str, Any]:
        settings = {"upload_seconds": UPLOAD_SECONDS}
        made = [router(self.folder / f"router-{i}", self.ledger, self.lake, self.budget, **settings) for i in range(2)]
        self.routers = [await one.__aenter__() for one in made]
        began, cpu = time.perf_counter(), time.process_time()
        watch = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._work() for _ in range(WORKERS)))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        watch.cancel()
        self.decided.close()
        self.reported.close()
        late = time.perf_counter()
        while any(shipper.pending for one in self.routers for shipper in one.shippers.values()):
            await asyncio.sleep(0.1)
        drained = time.perf_counter() - late
        spooled = sum(one.spool.size for one in self.routers)  # whole, if it took less than ten minutes
        for one in self.routers:
            await one.__aexit__(None, None, None)
        fifths = [
            next(size for share, size in [*self.memory, (1.0, self.memory[-1][1])] if share >= i / 5) for i in range(6)
        ]
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "decisions": self.decisions,
            "window_share": WINDOW_SHARE,
            "decisions_a_second": self.decisions / seconds,
            "uploaded_after_seconds": drained,
            "memory_mib": fifths,
            "spool_bytes": spooled,
            "seen": dict(sorted(self.seen.items())),
            **self._compared(),
        }

    async def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.memory.append((self.done / self.decisions, process.memory_info().rss / 2**20))
            await asyncio.sleep(0.5)

    async def _work(self) -> None:
        for first in self.numbers:
            at = self.routers[self.chance.randrange(2)]
            body = {"instances": instances(range(first, first + PART), self.chance, self.decisions // 10)}
            answers = await at.decider.decide(at.parser.parse(body))
            self.done += PART
            self.decided.writelines(f"{answer['decision_id']}\n" for answer in answers)
            await self._repeat(at, body["instances"], answers)
            await self._report(answers)

    async def _repeat(self, at: Router, asked: list[dict[str, Any]], answers: list[dict[str, Any]]) -> None:
        for share, to in ((0.02, at), (0.01, next(one for one in self.routers if one is not at))):
            for instance, answer in zip(asked, answers, strict=True):
                if self.chance.random() > share:
                    continue
                (again,) = await to.decider.decide(to.parser.parse({"instances": [instance]}))
                if to is at:
                    self.seen["repeated"] += 1
                    self.seen["answered otherwise"] += again["decision_id"] != answer["decision_id"]
                else:
                    self.seen["repeated at the other router"] += 1
                    self.seen["paid twice"] += again["expose"] and answer["expose"]
                    self.decided.write(f"{again['decision_id']}\n")
                    await self._report([again])

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
            events += [
                {
                    "event_id": f"{kind}-{answer['decision_id']}",
                    "decision_id": answer["decision_id"],
                    "kind": kind,
                    "value": value,
                    "event_time": datetime.now(UTC).isoformat(),
                }
                for kind, value in kinds
            ]
        if not events:
            return
        to = self.routers[self.chance.randrange(2)]
        report = json.dumps({"outcomes": events}).encode()
        for _ in range(2 if self.chance.random() < 0.02 else 1):
            await to.outcomes.accept(report)
        self.reported.writelines(f"{event['event_id']}\n" for event in events)

    def _compared(self) -> dict[str, Any]:
        from mtorl.experiment.arm import ALL_ARMS
        from mtorl.log.lake import Lake, lake_database
        from serving.ledger import open_ledger

        lake, found = Lake.open(self.lake), dict[str, Any]()
        with lake_database(lake) as db:
            for kind, key, file in (
                ("decision", "decision_id", "decided.txt"),
                ("outcome", "event_id", "reported.txt"),
            ):
                db.execute(f"CREATE TABLE lake_{kind} AS FROM {lake.records(db, kind)}")  # type: ignore[arg-type]
                db.execute(
                    f"""CREATE TABLE told_{kind} AS SELECT DISTINCT column0 AS id
                    FROM read_csv('{self.folder / file}', header = false)"""
                )
                ((rows, ids),) = db.execute(f"SELECT count(*), count(DISTINCT {key}) FROM lake_{kind}").fetchall()
                missing = f"SELECT count(*) FROM told_{kind} ANTI JOIN lake_{kind} ON id = {key}"
                found[f"{kind}s_in_lake"], found[f"{kind}s_doubled"] = rows, rows - ids
                ((found[f"{kind}s_lost"],),) = db.execute(missing).fetchall()
            ((costs,),) = db.execute(
                """SELECT sum(value) FROM lake_outcome WHERE kind = 'cost' AND decision_id IN (
                    SELECT decision_id FROM lake_decision WHERE expose)"""
            ).fetchall()
        balances = [one for one in open_ledger(self.ledger, 10.0).balances() if one.campaign != "*"]
        wholes = [one for one in balances if one.arm == ALL_ARMS]
        spent = sum(one.spent for one in wholes)
        return {
            **found,
            "files": sum(len(lake.arrived(kind)) for kind in KINDS),
            "bytes": {kind: sum(file.size for file in lake.arrived(kind)) for kind in KINDS},
            "costs_in_lake": costs,
            "spent_in_ledger": spent,
            "difference": abs(costs - spent),
            "budget": sum(one.limit for one in wholes),
            "accounts": len(balances),
            "accounts_overspent": sum(one.spent + one.reserved > one.limit + 1e-9 for one in balances),
            "excess": sum(one.excess for one in balances),
        }
