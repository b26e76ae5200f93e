"""Measures the request path and its parts, in one run on one computer, so that the figures can be compared.

    python benchmarks/serving.py --run runs/latest          # folder of a finished `mtorl run`
    python benchmarks/serving.py --run runs/latest --quick  # a few seconds for each figure

    forward      a loop that reads a window and runs the challenger's network: the least possible time
    handler      TorchServe with our handler, which gathers requests into batches of eight
    predictor    the same artifact on a plain kserve.Model
    router       the whole path: features, model, ledger, log; also with the predictor on a Unix socket

CPU time covers only the servers. Latency is less reliable, because the load generator slows down the servers.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _environment import ROOT, environment, finish, parser

from benchmarks.request_path.load import Plan
from benchmarks.request_path.profile import Profile
from benchmarks.request_path.tables import decided, goodput, in_short

CONNECTIONS = (1, 8, 32)
# A router serves about so many requests at a time.
CAPACITY_CONNECTIONS = 16
# TorchServe with a ledger on SQLite or Redis, or the predictor with SQLite.
PATHS = ("sqlite", "redis", "predictor")
# Number of users in the requests.
USERS = 500
# Loads in open loops, as multiples of the best closed loop.
OFFERED = (0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 2.0, 4.0)
# Repetitions of each load, which alternate so that other programs slow down all loads alike.
ROUNDS = 5


def load(plan: Plan, pids: list[int]) -> dict[str, Any]:
    """Send the requests of a plan from a subprocess, and return the figures.

    The figure `cpu_ms` is the CPU time per decision in milliseconds, summed over the processes `pids`.
    """
    before = cpu_seconds(pids)
    command = [sys.executable, "-m", "benchmarks.request_path.load"]
    done = subprocess.run(command, input=json.dumps(asdict(plan)), capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    measured: dict[str, Any] = json.loads(done.stdout)
    # Subtract the share of the warm-up from the CPU time.
    share = plan.seconds / (plan.seconds + plan.warm_seconds)
    measured["cpu_ms"] = 1000 * (cpu_seconds(pids) - before) * share / max(decided(measured), 1)
    return measured


def family(pids: list[int]) -> list[Any]:
    import psutil

    return [member for one in map(psutil.Process, pids) for member in (one, *one.children(recursive=True))]


def cpu_seconds(pids: list[int]) -> float:
    return sum(times.user + times.system for times in (member.cpu_times() for member in family(pids)))


def memory_mib(pids: list[int]) -> float:
    return sum(member.memory_info().rss for member in family(pids)) / 2**20


def forward(artifact_folder: Path, windows: list[Any], seconds: float) -> dict[str, dict[str, float]]:
    """Measure the CPU milliseconds per window without a server, for encoding and for the network, by batch size."""
    from mtorl.artifact.artifact import load as load_artifact
    from mtorl.window.window import WindowBatch

    artifact = load_artifact(artifact_folder)
    measured: dict[str, dict[str, float]] = {"encoding": {}, "graph": {}}
    for size in (1, 8, 32):
        some = (windows * size)[:size]
        x_BTD, length_B = artifact.encoder.encode(WindowBatch.from_instances(some, artifact.spec))
        ways: dict[str, Callable[[], object]] = {
            "encoding": lambda some=some: artifact.encoder.encode(WindowBatch.from_instances(some, artifact.spec)),
            "graph": lambda x_BTD=x_BTD, length_B=length_B: artifact.network(x_BTD, length_B),
        }
        for name, way in ways.items():
            way()
            rounds, started, until = 0, time.process_time(), time.perf_counter() + seconds / 3
            while time.perf_counter() < until:
                way()
                rounds += 1
            measured[name][str(size)] = 1000 * (time.process_time() - started) / (rounds * size)
    return measured


def users_windows(run: Path) -> tuple[list[Any], list[str], list[str]]:
    """Return windows of users in the log, and bodies of requests to model servers and to routers."""
    import pyarrow.parquet as pq

    from mtorl.log.dataset import DatasetSpec
    from mtorl.log.times import microseconds
    from mtorl.window.window import instance_from_history
    from serving.router.flow.features import FeastSource
    from serving.router.flow.requests import DecisionRequest

    spec = DatasetSpec.load(run / "artifacts" / "challenger" / "dataset.yaml")
    steps = pq.read_table(run / "windows" / "steps").to_pandas().groupby("user_id").last().head(USERS)
    at = microseconds(steps["timestamp"].max().to_pydatetime()) + 3_600_000_000
    requests = [
        DecisionRequest(str(user), str(row["campaign_id"]), {c.name: row[c.name] for c in spec.context}, at)
        for user, row in steps.iterrows()
    ]
    users = FeastSource(run / "features", "ad_decision_v1").read(requests)
    windows = [
        instance_from_history(user.history, request.context, user.static, spec, request.at)
        for request, user in zip(requests, users, strict=True)
    ]
    models = [json.dumps({"instances": [{"window": window, "u": 0.5}]}, default=float) for window in windows]
    routers = [
        json.dumps(
            {"instances": [{"user_id": r.user_id, "campaign_id": r.campaign_id, "context": r.context}]}, default=float
        )
        for r in requests
    ]
    return windows, models, routers


def main() -> None:
    options = parser(__doc__, "a few seconds for each figure")
    options.add_argument("--run", default="runs/latest", help="folder of a finished run")
    arguments = options.parse_args()

    from benchmarks.request_path.servers import router

    run = Path(arguments.run).resolve()
    artifact = run / "artifacts" / "challenger"
    seconds = 3.0 if arguments.quick else 15.0
    windows, model_bodies, router_bodies = users_windows(run)
    figures: dict[str, Any] = {"quick": arguments.quick, "forward_cpu_ms": forward(artifact, windows, seconds / 3)}
    print("forward, CPU ms a window:", figures["forward_cpu_ms"], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        measure_models(figures, artifact, root, model_bodies, seconds)
        for name in PATHS:
            runtime = "predictor" if name == "predictor" else "torchserve"
            with router(run, root / name, on_redis=name == "redis", runtime=runtime) as path:
                figures[f"router_{name}"] = measure_router(path, router_bodies, seconds)
                show(f"router, {name}", figures[f"router_{name}"]["loads"])
                show(f"asked, {name}", figures[f"router_{name}"]["offered"], "x")
    figures["environment"] = environment("torch", "torchserve", "kserve")
    finish(figures, arguments.json)


def measure_models(
    figures: dict[str, Any], artifact: Path, root: Path, model_bodies: list[str], seconds: float
) -> None:
    from serving.archive import package
    from serving.local.ports import free_ports
    from serving.local.predictor import LocalPredictor
    from serving.local.torchserve import TorchServe

    package(artifact, "challenger", store := root / "ours-store", gather=True)
    servers = {
        "handler": TorchServe(store, root / "ours", *free_ports(1)),
        "predictor": LocalPredictor(store, root, *free_ports(1)),
    }
    for name, server in servers.items():
        with server:
            plans = [Plan(server.endpoint("challenger"), model_bodies, n, seconds) for n in CONNECTIONS]
            figures[name] = {str(plan.connections): load(plan, [server.pid]) for plan in plans}
        show(name, figures[name])


def measure_router(path: Any, bodies: list[str], seconds: float) -> dict[str, Any]:
    first = path.first_decision(bodies[0])
    loads, stages, router_cpu = {}, {}, {}
    for connections in (*CONNECTIONS, CAPACITY_CONNECTIONS):
        before, cpu_before = path.stage_sums(), cpu_seconds([path.router_pid])
        plan = Plan(path.url, bodies, connections, seconds)
        loads[str(connections)] = measured = load(plan, path.pids)
        share = plan.seconds / (plan.seconds + plan.warm_seconds)
        cpu = cpu_seconds([path.router_pid]) - cpu_before
        router_cpu[str(connections)] = 1000 * cpu * share / max(decided(measured), 1)
        stages[str(connections)] = path.stage_means(before)
    profile = Profile(path.router_pid, seconds)
    load(Plan(path.url, bodies, 8, seconds), path.pids)
    closed = max(goodput(measured) for measured in loads.values())
    memory = memory_mib([path.router_pid])
    offered = at_offered_loads(path, bodies, closed, seconds)
    held = {"before": memory, "after": memory_mib([path.router_pid])}
    found = {"first_decision_ms": first, "loads": loads, "stages_ms": stages, "router_cpu_ms": router_cpu}
    found["profile"] = profile.shares()
    return {**found, "deadline_ms": path.deadline_ms, "offered": offered, "memory_mib": held}


def at_offered_loads(path: Any, bodies: list[str], closed: float, seconds: float) -> dict[str, dict[str, Any]]:
    """Measure open loops at multiples of `closed`, the best throughput in a closed loop."""
    visits: dict[str, list[dict[str, Any]]] = {f"{share:g}": [] for share in OFFERED}
    for turn in range(ROUNDS if seconds > 5 else 1):
        for share in OFFERED:
            plan = Plan(path.url, bodies, 256, seconds / 2, rate=share * closed, seed=turn)
            visits[f"{share:g}"].append(load(plan, path.pids))
    return {share: {"asked_per_second": float(share) * closed, **merged(found)} for share, found in visits.items()}


def merged(visits: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge runs of the same load: add the counts, average the medians, and take the largest p99."""

    def added(name: str) -> dict[str, int]:
        return dict(sum((Counter(visit[name]) for visit in visits), Counter()))

    def over(quantile: str) -> list[float]:
        return [visit["latency_ms"]["200"][quantile] for visit in visits if "200" in visit["latency_ms"]]

    in_full = sum(map(decided, visits))
    return {
        "requests": sum(visit["requests"] for visit in visits),
        "per_second": statistics.mean(visit["per_second"] for visit in visits),
        "statuses": added("statuses"),
        "fallbacks": added("fallbacks"),
        "latency_ms": {"200": {"p50": statistics.mean(over("p50")), "p99": max(over("p99"))}} if over("p50") else {},
        "cpu_ms": sum(visit["cpu_ms"] * decided(visit) for visit in visits) / max(in_full, 1),
        "never_answered": sum(visit["never_answered"] for visit in visits),
    }


def show(name: str, loads: dict[str, Any], unit: str = "c=") -> None:
    for load_, measured in loads.items():
        print(f"{name:<16} {unit + load_:<5} {in_short(measured)}", flush=True)


if __name__ == "__main__":
    main()
