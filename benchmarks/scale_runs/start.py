"""Measures how long a router takes to start with many records on disk, or with budgets of many campaigns."""

import asyncio
import itertools
import os
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks._process import clock, redis_server
from benchmarks.scale_runs.batch import definition
from benchmarks.scale_runs.made_lake import SPEC

# Kinds of records, with their share of the spool's bytes.
KINDS = (("decision", 0.7), ("outcome", 0.2), ("window", 0.1))


def start_with_spool(folder: str, segments: int) -> dict[str, Any]:
    """Measure the start of a router with `segments` files of 64 MiB in its spool.

    Hard links to one file per kind save disk space.
    """
    place = Path(folder)
    place.mkdir(parents=True)
    with redis_server(place, appendonly="yes") as port:
        return asyncio.run(_start(place, f"redis://127.0.0.1:{port}?name=ads", segments))


async def _start(place: Path, ledger: str, segments: int) -> dict[str, Any]:
    from benchmarks.scale_runs.market import router

    async with router(place / "router", ledger, str(place / "lake"), 1e6, upload_seconds=0.0) as one:
        records = await some_records(one)
    spool = place / "router" / "spool"
    for file in spool.glob("*.jsonl"):
        file.unlink()
    (spool / "uploaded.json").unlink(missing_ok=True)
    for kind, share in KINDS:
        first = _segment(spool, kind, records[kind], 1 << 26 if segments > 1 else 1 << 20)
        for number in range(2, max(2, round(share * segments) + 1)):
            os.link(first, spool / f"{kind}-{number:08d}.jsonl")
    size = sum(file.stat().st_size for file in spool.glob("*.jsonl"))
    with clock() as figures:
        one = router(place / "router", ledger, str(place / "lake"), 1e6, spool_max_bytes=1 << 40)
        await one.__aenter__()
    await one.__aexit__(None, None, None)
    return {**figures, "bytes": size, "segments": len(list(spool.glob("*.jsonl")))}


async def some_records(one: Any, count: int = 50) -> dict[str, list[dict[str, Any]]]:
    """Let a router make `count` decisions with outcomes, and return its records by kind."""
    import json
    import random

    from benchmarks.scale_runs.market import instances, outcome

    chance = random.Random(1)
    for first in range(0, count, 50):
        asked = {"instances": instances(range(first, first + 50), chance, count)}
        answers = await one.decider.decide(one.parser.parse(asked))
        events = [outcome(answer["decision_id"], "cost", 0.01) for answer in answers]
        await one.outcomes.accept(json.dumps({"outcomes": events}).encode())
    found = {kind: list(one.spool.read(kind)) for kind, _ in KINDS}
    found["window"] = found["window"] or found["decision"]
    return found


def _segment(spool: Path, kind: str, like: list[dict[str, Any]], size: int) -> Path:
    import orjson

    identity = (spool / "identity").read_text().strip()
    path, written, number = spool / f"{kind}-00000001.jsonl", 0, 0
    with path.open("wb") as file:
        for record in itertools.cycle(like):
            if written >= size:
                return path
            number += 1
            made = with_own_ids(kind, record, number, identity)
            written += file.write(orjson.dumps(made) + b"\n")
    raise AssertionError("there is no record to copy")


def with_own_ids(kind: str, record: dict[str, Any], number: int, identity: str) -> dict[str, Any]:
    from mtorl.log.decision_ids import decision_id

    name, now = decision_id(f"u{number % 5000}", identity), datetime.now(UTC).isoformat()
    own = {"decision_id": name, "event_time": now}
    if kind == "decision":
        own |= {"request_id": uuid.uuid4().hex, "reservation_id": name}
    if kind == "outcome":
        own |= {"event_id": f"e-{name}", "received_time": now}
    return {**record, **own}


def kill_and_start(folder: str, campaigns: int, experiments: int) -> dict[str, Any]:
    """Measure how long a router needs to read experiments with many campaigns, and to notice that one is switched off.

    The switch is an `.off` file, then a change of the experiment file.
    """
    import yaml

    from serving.router.ops.health import Health
    from serving.router.ops.live_experiments import ExperimentFiles, LiveExperiments

    files = Path(folder) / "experiments"
    files.mkdir(parents=True)
    rows = "".join(f"c{campaign},*,200,day\n" for campaign in range(campaigns))
    (files / "budgets.csv").write_text(f"campaign,channel,amount,period\n{rows}")
    for i in range(experiments):
        part = [i / experiments, (i + 1) / experiments]
        content = definition(f"e{i}", budgets=[], budget_table="budgets.csv", layer_part=part)
        (files / f"e{i}.yaml").write_text(yaml.safe_dump(content))
    with clock() as figures:
        live = LiveExperiments(ExperimentFiles(files), SPEC, Health(), Path(folder) / "last-good")
        one = live.experiments.deciding("u1", "c7")
        accounts = len(live.experiments.accounts())
    assert one.enabled, "the experiment is not active"
    over = threading.Event()

    def follow() -> None:
        while not over.wait(1.0):
            live.refresh()

    def seconds_until(enabled: bool) -> float:
        began = time.perf_counter()
        while live.experiments.deciding("u1", "c7").enabled is not enabled:
            assert time.perf_counter() - began < 120, "the switch took more than two minutes"
            time.sleep(0.01)
        return time.perf_counter() - began

    thread = threading.Thread(target=follow)
    thread.start()
    found: dict[str, Any] = {**figures, "accounts": accounts}
    try:
        (files / f"{one.name}.off").write_text("why")
        found["kill_by_key_seconds"] = seconds_until(False)
        (files / f"{one.name}.off").unlink()
        seconds_until(True)
        file = files / f"{one.name}.yaml"
        file.write_text(file.read_text().replace("enabled: true", "enabled: false"))
        found["kill_by_file_seconds"] = seconds_until(False)
    finally:
        over.set()
        thread.join()
    return found
