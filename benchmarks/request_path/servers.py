"""The servers that are measured, each started as its users start it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from benchmarks._process import redis_server
from serving.local.ports import free_ports

ROOT = Path(__file__).parents[2]


@contextmanager
def predictor(artifact: Path) -> Iterator[tuple[str, int]]:
    """The plain kserve.Model predictor; URL and process."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "serving.predictor", "--artifact", str(artifact), "--name", "challenger"]
    command += ["--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1/models/challenger"
    try:
        wait_for(url, process)
        yield f"{url}:predict", process.pid
    finally:
        process.terminate()
        process.wait(20)


@dataclass
class RouterPath:
    """A running stack."""

    url: str
    router_pid: int
    pids: list[int]
    deadline_ms: float

    def first_decision(self, body: str) -> float:
        """Milliseconds of one decision, the first that this router is asked for."""
        request = urllib.request.Request(self.url, body.encode(), {"content-type": "application/json"})
        started = time.perf_counter()
        urllib.request.urlopen(request, timeout=5).read()
        return 1000 * (time.perf_counter() - started)

    def stage_sums(self) -> dict[str, tuple[float, float]]:
        """Seconds and number of calls of each stage, as /metrics shows them."""
        text = urllib.request.urlopen(self.url.split("/v1/")[0] + "/metrics", timeout=5).read().decode()
        figures: dict[str, tuple[float, float]] = {}
        for what in ("sum", "count"):
            pattern = rf'^mtorl_stage_latency_seconds_{what}{{[^}}]*stage="(\w+)"[^}}]*}} (\S+)$'
            for stage, value in re.findall(pattern, text, re.MULTILINE):
                total, count = figures.get(stage, (0.0, 0.0))
                figures[stage] = (total + float(value), count) if what == "sum" else (total, count + float(value))
        return figures

    def stage_means(self, before: dict[str, tuple[float, float]]) -> dict[str, float]:
        """Mean milliseconds of each stage since then."""
        now = self.stage_sums()
        figures = {}
        for stage, (total, count) in now.items():
            total_before, count_before = before.get(stage, (0.0, 0.0))
            figures[stage] = 1000 * (total - total_before) / max(count - count_before, 1)
        return figures


@contextmanager
def router(
    run: Path, scratch: Path, on_redis: bool, runtime: Literal["torchserve", "predictor"] = "torchserve"
) -> Iterator[RouterPath]:
    """The stack of a run, on a copy: its ledger and log stay as they are."""
    from serving.local.stack import LocalStack

    copy = scratch / "run"
    copy.mkdir(parents=True)
    for name in ("model-store", "artifacts", "features"):
        (copy / name).symlink_to(run / name)
    (copy / "serving").mkdir()
    experiment = yaml.safe_load((run / "serving.yaml").read_text()) | {"stage": "50%"}  # it may be over by now
    for budget in experiment["budgets"]:
        budget["amount"] = 1e6  # a decision without money left is a cheaper one
    (copy / "serving" / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    with ExitStack() as running:
        ledger = running.enter_context(ledger_redis(scratch)) if on_redis else None
        stack = running.enter_context(LocalStack(copy, deadline_ms=50.0, runtime=runtime, ledger=ledger))
        parts = stack.pids
        yield RouterPath(f"{stack.url}/v1/models/ads:predict", parts["router"], list(parts.values()), 50.0)


@contextmanager
def ledger_redis(scratch: Path) -> Iterator[str]:
    """A Redis that syncs each write, as the ledger wants it; its URL."""
    with redis_server(scratch, "--appendonly", "yes", "--appendfsync", "always") as address:
        yield f"redis://{address}/0"


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return once something answers there with 200."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=1).read()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{url} did not come up")
