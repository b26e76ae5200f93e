"""What several router processes on one port decide: 1, 2 and 4 of them in turn, each turn a start of its own.

    python benchmarks/workers.py --run runs/latest          # of a finished `mtorl run`, about six minutes
    python benchmarks/workers.py --run runs/latest --quick  # about one minute

A closed loop keeps as many connections busy for each process. Both arms are a rule in the experiment file, so the
router does all there is to do (HTTP, features from Feast's SQLite, a Redis that syncs each reservation, the decision
log) and no model server competes for the cores. Load generator and Redis do: what each takes of the machine is said,
other programs included, and what is decided a second can't grow once nothing is left of it. CPU for each decision is
the firm figure: that of the router.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from _environment import ROOT, environment, finish

from benchmarks._markdown import Figures, measured_on, table
from benchmarks.request_path.load import Plan
from benchmarks.request_path.servers import ledger_redis, wait_for
from benchmarks.serving import cpu_seconds, decided, load, users_windows
from serving.decision_log import segments, workers

COUNTS = (1, 2, 4)
ROUNDS = 6  # through all of them: whatever else happens on the machine meets them alike
SECONDS = 10.0
CONNECTIONS = 48  # for each process: with fewer, each gathers fewer requests into a call or a sync
DEADLINE_MS = 10_000.0  # long: no decision is refused, or cheaper, since the machine is busy


def write_settings(run: Path, folder: Path, ledger: str) -> tuple[Path, int]:
    """The settings of a router whose arms need no server; their file, and the port."""
    from serving.local.ports import free_ports

    experiment = yaml.safe_load((run / "serving.yaml").read_text()) | {"stage": "50%"}
    for budget in experiment["budgets"]:
        budget["amount"] = 1e6  # a decision without money left is a cheaper one
    rule = [{"channel": experiment["default_channel"]}]
    experiment["arms"] = [{"name": arm["name"], "weight": 0.5, "policy": rule} for arm in experiment["arms"]]
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    artifact = run / "artifacts" / "challenger"
    (port,) = free_ports(1)
    settings = {
        "port": port,
        "experiment": "experiment.yaml",
        "dataset": str(artifact / "dataset.yaml"),
        "feature_repo": str(run / "features"),
        "ledger": ledger,
        "spool": "spool",
        "cost_cap": json.loads((artifact / "model.json").read_text())["cost_cap"],
        "auth": {"kind": "none"},
        "deadline_ms": DEADLINE_MS,
    }
    (folder / "router.yaml").write_text(yaml.safe_dump(settings))
    return folder / "router.yaml", port


@contextmanager
def router(settings: Path, port: int, count: int) -> Iterator[tuple[str, int]]:
    """A router of so many processes, all of which decide; its URL, and the process that started them."""
    command = [sys.executable, "-P", "-m", "serving.router", "--run-config", str(settings), "--workers", str(count)]
    log = settings.with_name("router.log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health/ready", process)
        while log.read_text().count("router ready") < count:
            time.sleep(0.1)
        yield f"{url}/v1/models/ads:predict", process.pid
    finally:
        process.terminate()
        process.wait(60)


def turn(run: Path, bodies: list[str], count: int, seconds: float) -> dict[str, Any]:
    """What so many processes decide, and who used the machine meanwhile."""
    import psutil

    with tempfile.TemporaryDirectory() as name, ledger_redis(Path(name)) as ledger:
        folder = Path(name)
        (redis,) = [child.pid for child in psutil.Process().children() if child.name() == "redis-server"]
        with router(*write_settings(run, folder, f"{ledger}?name=workers"), count) as (url, pid):
            plan = Plan(url, bodies, count * CONNECTIONS, seconds)
            before, began = _used(pid, redis), time.perf_counter()
            measured = load(plan, [pid])
            after, took = _used(pid, redis), time.perf_counter() - began
        logs = [sum(1 for _ in segments.read(log, "decision")) for log in workers.folders(folder / "spool")]
    return {
        "per_second": decided(measured) / seconds,
        "cpu_ms": measured["cpu_ms"],
        "p50_ms": measured["latency_ms"]["200"]["p50"],
        "p99_ms": measured["latency_ms"]["200"]["p99"],
        "statuses": measured["statuses"],
        "defaults": measured["fallbacks"],
        "cores": {name: (after[name] - before[name]) / took for name in before},
        "largest_share": max(logs) / sum(logs),
    }


def _used(router: int, redis: int) -> dict[str, float]:
    """CPU seconds so far, by who used them; the load generator is the one child that ends in between."""
    import psutil

    ended, machine = resource.getrusage(resource.RUSAGE_CHILDREN), psutil.cpu_times()
    used = {
        "router": cpu_seconds([router]),
        "load generator": ended.ru_utime + ended.ru_stime,
        "Redis": cpu_seconds([redis]),
    }
    busy = sum(machine) - machine.idle - machine.iowait
    return {**used, "other programs": busy - sum(used.values())}


def workers_table(figures: Figures) -> str:
    """A row for each number of workers: medians over the turns, of what is compared as well."""
    ones = figures["turns"][str(COUNTS[0])]
    users = list(ones[0]["cores"])
    rows = []
    for count, turns in figures["turns"].items():
        middle = {key: statistics.median(turn[key] for turn in turns) for key in _MEDIANS}
        ratios = [turn["per_second"] / one["per_second"] for turn, one in zip(turns, ones, strict=True)]
        answers = sum(sum(turn["statuses"].values()) for turn in turns)
        full = sum(turn["per_second"] * figures["seconds"] for turn in turns)
        rows.append(
            [
                count,
                f"{middle['per_second']:.0f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{middle['cpu_ms']:.2f}",
                f"{middle['p50_ms']:.0f}, {middle['p99_ms']:.0f}",
                f"{100 * (answers - full) / answers:.1f} %",
                *(f"{statistics.median(turn['cores'][user] for turn in turns):.2f}" for user in users),
                f"{100 * middle['largest_share']:.0f} %",
            ]
        )
    heads = ["workers", "decisions a second", "/ one worker, of the same round", "CPU ms a decision"]
    heads += ["latency p50, p99, ms", "refused or default action", *(f"cores used by {user}" for user in users)]
    heads += ["of them by the busiest worker"]
    conditions = f"{figures['seconds']:.0f} s for each, {CONNECTIONS} connections for each worker"
    intro = f"{len(ones)} rounds of {conditions}; medians.\n\n"
    return intro + table(heads, rows) + measured_on(figures, "workers.py")


_MEDIANS = ("per_second", "cpu_ms", "p50_ms", "p99_ms", "largest_share")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/latest", help="folder of a finished run")
    parser.add_argument("--quick", action="store_true", help="one short turn for each")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    arguments = parser.parse_args()
    run = Path(arguments.run).resolve()
    bodies = users_windows(run)[2]
    seconds, rounds = (3.0, 1) if arguments.quick else (SECONDS, ROUNDS)
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # Feast sets it in every process that imports it
    turns: dict[str, list[Any]] = {str(count): [] for count in COUNTS}
    for _ in range(rounds):
        for count in COUNTS:
            measured = turn(run, bodies, count, seconds)
            turns[str(count)].append(measured)
            print(f"{count}: {measured['per_second']:.0f} a second, {measured['cpu_ms']:.2f} ms", flush=True)
    figures = {
        "quick": arguments.quick,
        "seconds": seconds,
        "turns": turns,
        "environment": environment("kserve", "redis"),
    }
    print(workers_table(figures))
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
