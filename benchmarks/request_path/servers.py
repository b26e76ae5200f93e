"""Starts the router and model servers that are measured, in the same way as `mtorl serve` does."""

import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from benchmarks._process import redis_server


def samples(url: str) -> Iterator[Sample]:
    text = urllib.request.urlopen(url.split("/v1/")[0] + "/metrics", timeout=5).read().decode()
    for family in text_string_to_metric_families(text):
        yield from family.samples


@dataclass
class RouterPath:
    """A running router with its model servers."""

    url: str
    router_pid: int
    pids: list[int]
    deadline_ms: float

    def first_decision(self, body: str) -> float:
        """Return the duration of the router's first decision, in milliseconds."""
        request = urllib.request.Request(self.url, body.encode(), {"content-type": "application/json"})
        started = time.perf_counter()
        urllib.request.urlopen(request, timeout=5).read()
        return 1000 * (time.perf_counter() - started)

    def stage_sums(self) -> Counter[tuple[str, str]]:
        """Return the total seconds ("sum") and the number ("count") of calls of each stage."""
        figures: Counter[tuple[str, str]] = Counter()
        for sample in samples(self.url):
            what = sample.name.removeprefix("mtorl_stage_latency_seconds_")
            if what in ("sum", "count"):
                figures[sample.labels["stage"], what] += sample.value
        return figures

    def stage_means(self, before: Counter[tuple[str, str]]) -> dict[str, float]:
        """Return the mean duration of each stage in milliseconds, since `stage_sums` returned `before`."""
        now = self.stage_sums()
        since = {key: value - before[key] for key, value in now.items()}
        return {stage: 1000 * since[stage, "sum"] / max(since[stage, "count"], 1) for stage, _ in since}


@contextmanager
def router(
    run: Path, scratch: Path, on_redis: bool, runtime: Literal["torchserve", "predictor"] = "torchserve"
) -> Iterator[RouterPath]:
    """Start the servers of a finished run in a copy of its folder, so that its ledger and log do not change."""
    from serving.local.stack import LocalStack

    copy = scratch / "run"
    copy.mkdir(parents=True)
    for name in ("model-store", "artifacts", "features"):
        (copy / name).symlink_to(run / name)
    (copy / "serving").mkdir()
    # The experiment of the run may have ended, so set a stage in which both arms decide.
    experiment = yaml.safe_load((run / "serving.yaml").read_text()) | {"stage": "50%"}
    for budget in experiment["budgets"]:
        # Without money, decisions would take less time, so the budget must not be exhausted.
        budget["amount"] = 1e6
    (copy / "serving" / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    with ExitStack() as running:
        ledger = None
        # A ledger on Redis must sync each write to disk, which takes time.
        if on_redis:
            server = redis_server(scratch, appendonly="yes", appendfsync="always")
            ledger = f"redis://127.0.0.1:{running.enter_context(server)}/0"
        settings = {"deadline_ms": 50.0, "upload_seconds": 60.0}  # the same settings as on a cluster
        stack = running.enter_context(LocalStack(copy, runtime=runtime, ledger=ledger, settings=settings))
        parts = stack.pids
        yield RouterPath(f"{stack.url}/v1/models/ads:predict", parts["router"], list(parts.values()), 50.0)
