"""How the decision log stores its records: segment files with an index in memory, against one SQLite database.

    python benchmarks/decision_log.py  # a quarter of an hour, 3 GB in TMPDIR
    python benchmarks/decision_log.py --json benchmarks/results/decision_log.json  # likewise, and keep the figures
    python benchmarks/decision_log.py --quick                                      # smaller logs

Both make a record durable before they acknowledge it, and share a sync between all that gathered meanwhile. A fifth of
the records are outcomes. For each size of log: how fast it was filled (10,000 records wait at any time), how long one
append takes, with one caller and with 32, how long the log takes to open again in a new process and what it holds in
memory then, how fast a shipper reads it, and how long it takes to delete the older half. On a machine that has other
work as well, CPU times are the firm figures.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from _environment import environment, finish

from benchmarks.log_storage.sqlite_log import SqliteLog
from benchmarks.log_storage.table import decision_log_table
from mtorl.log.records import DecisionRecord, Kind, OutcomeRecord
from serving.decision_log import Spool, position, tail

SIZES = (100_000, 1_000_000)
QUICK_SIZES = (5_000, 20_000)
STORES = ("segments", "sqlite")
WAITING = 10_000
CALLERS = (1, 32)
TOKENS = 20
SECONDS = 5.0  # for each measure of appends
READ_AT_ONCE = 256


def records(seed: int) -> Iterator[tuple[Kind, Any]]:
    """Decisions, and outcomes of a fifth of them; ids never come again."""
    draw = random.Random(seed)
    channels = ["search", "social", "display", "video"]
    windows = [_window(draw) for _ in range(100)]  # made beforehand: making them is no part of an append
    for i in itertools.count():
        name, now = f"{draw.getrandbits(128):032x}", datetime.now(UTC).isoformat(timespec="microseconds")
        decision: DecisionRecord = {
            "decision_id": name,
            "arm": "challenger",
            "channel": "video",
            "expose": True,
            "propensity": draw.random(),
            "expected_reward": draw.random(),
            "expected_cost": draw.random(),
            "budget_exhausted": False,
            "fallback_reason": None,
            "request_id": f"request-{i}",
            "experiment": "mtorl-vs-frequency",
            "reservation_id": name,
            "schema_version": 2,
            "unit_hash": name[:16],
            "user_id": f"user-{i % 50_000}",
            "layer": "channel-policy",
            "salt": "2026-01-a",
            "experiment_version": name[:16],
            "shares": {"incumbent": 0.5, "challenger": 0.5},
            "assignment_probability": 0.5,
            "stage": "50%",
            "model_name": "challenger",
            "model_version": name[:12],
            "model_digest": f"sha256:{draw.getrandbits(256):064x}",
            "feature_hash": name[16:],
            "features_found": True,
            "features": windows[i % len(windows)],
            "campaign_id": "spring",
            "context": {"hour": 14.0, "device": "phone", "placement": "top"},
            "request_time": now,
            "request_hash": name[:16],
            "candidates": channels,
            "channel_probs": {channel: draw.random() for channel in channels},
            "price": draw.random(),
            "prices": {channel: draw.random() for channel in channels},
            "reserved": 0.05,
            "withdrawn": False,
            "latency_seconds": draw.random(),
            "event_time": now,
        }
        yield "decision", decision
        if i % 4 == 0:
            outcome: OutcomeRecord = {
                "schema_version": 1,
                "event_id": f"{name}-cost",
                "decision_id": name,
                "kind": "cost",
                "value": 0.03,
                "event_time": now,
            }
            yield "outcome", outcome


def _window(draw: random.Random) -> dict[str, Any]:
    """A full window of the built-in data set, of `TOKENS` touchpoints."""
    counts = range(TOKENS)
    return {
        "timestamp": 1_767_268_800_000_000,
        "prev_channel": [draw.choice(("search", "social", "display", "video")) for _ in counts],
        "prev_timestamp": [1_767_000_000_000_000.0 + draw.getrandbits(30) for _ in counts],
        "prev_click": [draw.randrange(2) for _ in counts],
        "prev_conversion": [0 for _ in counts],
        "prev_revenue": [0.0 for _ in counts],
        "prev_cost": [draw.random() for _ in counts],
        "context": {
            "hour": [float(draw.randrange(24)) for _ in counts],
            "device": [draw.choice(("mobile", "desktop", "tv")) for _ in counts],
            "placement": [draw.choice(("feed", "top", "sidebar")) for _ in counts],
        },
        "static": {"age_group": "25-34", "tenure_days": 311.0, "region": "north"},
    }


def open_log(store: str, folder: Path) -> Spool | SqliteLog:
    return Spool(folder) if store == "segments" else SqliteLog(folder)


def fill(store: str, folder: Path, size: int, seed: int) -> dict[str, float]:
    """Append `size` records as fast as they are taken."""
    log = open_log(store, folder)
    waiting: deque[Future[str]] = deque()
    start, cpu = time.perf_counter(), time.process_time()
    for kind, record in itertools.islice(records(seed), size):
        waiting.append(log.submit(kind, record))
        if len(waiting) >= WAITING:
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()
    seconds = time.perf_counter() - start
    cpu = time.process_time() - cpu
    log.close()
    return {"appends_per_second": size / seconds, "append_cpu_us": cpu / size * 1e6}


def reopen(store: str, folder: Path) -> dict[str, float]:
    """Open the log of an earlier process, append to it, and ship it; what it then holds in memory."""
    before, start, cpu = _resident(), time.perf_counter(), time.process_time()
    log = open_log(store, folder)
    figures = {
        "reopen_seconds": time.perf_counter() - start,
        "reopen_cpu_seconds": time.process_time() - cpu,
        "memory_mib": (_resident() - before) / 2**20,
    }
    for callers in CALLERS:
        figures |= {f"{name}_{callers}": value for name, value in append(log, callers).items()}
    figures["shipped_per_second"] = ship(log)
    log.close()
    return figures


def _resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def append(log: Spool | SqliteLog, callers: int) -> dict[str, float]:
    """Callers that each append one record after the other, as the router's requests do."""
    over = time.perf_counter() + SECONDS
    times: list[list[float]] = [[] for _ in range(callers)]

    def call(mine: list[float], seed: int) -> None:
        for kind, record in records(seed):
            start = time.perf_counter()
            log.submit(kind, record).result()
            mine.append(time.perf_counter() - start)
            if time.perf_counter() > over:
                return

    seeds = random.SystemRandom()
    threads = [threading.Thread(target=call, args=(mine, seeds.getrandbits(64))) for mine in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = np.concatenate(times)
    p50, p99 = np.quantile(every, [0.5, 0.99]) * 1000
    return {"per_second": len(every) / SECONDS, "p50_ms": float(p50), "p99_ms": float(p99)}


def ship(log: Spool | SqliteLog) -> float:
    """Decisions a second that a shipper reads for a sink that takes them at once; its position is noted each second."""
    count, start, note_at = 0, time.perf_counter(), time.perf_counter() + 1.0
    at = position.OLDEST
    number = 0
    while time.perf_counter() - start < SECONDS:
        if isinstance(log, Spool):
            batch = tail.read(log.folder, "decision", at, log.end("decision"), READ_AT_ONCE)
            if batch is None:
                break
            at, taken = batch.end, len(batch)
        else:
            rows = log.read("decision", number, READ_AT_ONCE)
            if not rows:
                break
            number, taken = rows[-1][0], len(rows)
        count += taken
        if time.perf_counter() >= note_at:
            note_at += 1.0
            if isinstance(log, Spool):
                position.save(log.folder, {"decision": at})
            else:
                log.note_shipped("decision", number)
    return count / (time.perf_counter() - start)


def delete_half(store: str, folder: Path) -> dict[str, float]:
    """Delete the older half of the decisions, and append meanwhile."""
    log = open_log(store, folder)
    over = threading.Event()
    times: list[float] = []

    def call() -> None:
        for kind, record in records(random.SystemRandom().getrandbits(64)):
            start = time.perf_counter()
            log.submit(kind, record).result()
            times.append(time.perf_counter() - start)
            if over.is_set():
                return

    thread = threading.Thread(target=call)
    thread.start()
    start = time.perf_counter()
    if isinstance(log, Spool):
        half = position.Position((log.end("decision").segment + 1) // 2 + 1, 0)
        log.prune({"decision": half}, time.time() + 60, lambda: [])
    else:
        log.prune({"decision": log.newest("decision") // 2}, time.time() + 60, [])
    seconds = time.perf_counter() - start
    over.set()
    thread.join()
    log.close()
    return {"delete_seconds": seconds, "delete_worst_append_ms": max(times) * 1000}


def measure(store: str, sizes: tuple[int, ...], folder: Path) -> list[dict[str, Any]]:
    """All figures of one way of storing."""
    runs, size = [], 0
    for target in sizes:
        held = _size(folder)
        filled = _in_a_process(fill, store, folder, target - size, target)
        bytes_per_record = (_size(folder) - held) / (target - size)
        opened = _in_a_process(reopen, store, folder)
        runs.append({"store": store, "records": target, "bytes_per_record": bytes_per_record, **filled, **opened})
        size = target
    runs[-1] |= _in_a_process(delete_half, store, folder)
    return runs


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.exists() else 0


def _in_a_process(step: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """A step in a process of its own: what one leaves in memory does not help the next."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as processes:
        return processes.submit(step, *args).result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="", metavar="FILE", help="also write the figures there")
    parser.add_argument("--quick", action="store_true", help="smaller logs")
    args = parser.parse_args()
    sizes = QUICK_SIZES if args.quick else SIZES
    scratch = Path(tempfile.mkdtemp(prefix="decision-log-"))
    try:
        runs = [run for store in STORES for run in measure(store, sizes, scratch / store)]
    finally:
        shutil.rmtree(scratch)
    figures = {"environment": environment(), "runs": runs}
    print(decision_log_table(figures))
    finish(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
