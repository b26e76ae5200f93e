"""What asking challengers in the shadow costs the answered path: open loops with and without, in turn, on one router.

    python benchmarks/shadow.py --run runs/latest          # of a finished `mtorl run`, about seven minutes
    python benchmarks/shadow.py --run runs/latest --quick

Everybody gets the incumbent either way: at stage `shadow`, where a challenger is asked after each answer, and with the
experiment switched off, where nobody is. The load is half of what the router answers in a closed loop, as a router that
is not overloaded has it. A pair is one loop of either kind after the other, so what else happens on the machine meets
both alike; the figure is the median over pairs of the ratio of their times.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from _environment import environment, finish

from benchmarks.request_path.load import Plan
from benchmarks.request_path.servers import RouterPath, router
from benchmarks.serving import decided_per_second, load, users_windows

SHARE = 0.5  # of the closed loop's decisions a second
PAIRS = 15
CONNECTIONS = 64
RELOADED_SECONDS = 8  # a router reads its experiment file every five


def switch(experiment: Path, shadow: bool) -> None:
    """Put the experiment at stage shadow, or switch it off."""
    content = yaml.safe_load(experiment.read_text())
    content |= {"enabled": shadow, "stage": "shadow"}
    experiment.write_text(yaml.safe_dump(content))
    time.sleep(RELOADED_SECONDS)


def shadows(path: RouterPath) -> dict[str, float]:
    """How many challengers were asked, by what came of it."""
    text = urllib.request.urlopen(path.url.split("/v1/")[0] + "/metrics", timeout=5).read().decode()
    pattern = r'^mtorl_shadow_decisions_total{[^}]*result="(\w+)"[^}]*} (\S+)$'
    return {result: float(value) for result, value in re.findall(pattern, text, re.MULTILINE)}


def measure(path: RouterPath, experiment: Path, bodies: list[str], seconds: float, pairs: int) -> dict[str, Any]:
    """Times of both kinds, a pair a turn."""
    switch(experiment, shadow=False)
    closed = decided_per_second(load(Plan(path.url, bodies, 8, seconds), path.pids))
    found: dict[str, list[dict[str, Any]]] = {"without": [], "shadow": []}
    for turn in range(pairs):
        for kind in sorted(found, reverse=bool(turn % 2)):
            switch(experiment, shadow=kind == "shadow")
            plan = Plan(path.url, bodies, CONNECTIONS, seconds, rate=SHARE * closed, seed=turn)
            measured = load(plan, path.pids)
            found[kind].append({**measured["latency_ms"]["200"], "cpu_ms": measured["cpu_ms"]})
            print(kind, found[kind][-1], measured["statuses"], flush=True)
    ratios = {
        name: [one[name] / other[name] for one, other in zip(found["shadow"], found["without"], strict=True)]
        for name in ("p50", "p99", "cpu_ms")
    }
    return {
        "asked_per_second": SHARE * closed,
        "loops": found,
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "ratio_quartiles": {name: statistics.quantiles(values, n=4)[::2] for name, values in ratios.items()},
        "shadows": shadows(path),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/latest", help="folder of a finished run")
    parser.add_argument("--quick", action="store_true", help="three pairs of two seconds")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    arguments = parser.parse_args()
    run = Path(arguments.run).resolve()
    bodies = users_windows(run)[2]
    figures: dict[str, Any] = {"quick": arguments.quick}
    seconds, pairs = (2.0, 3) if arguments.quick else (6.0, PAIRS)
    with tempfile.TemporaryDirectory() as folder, router(run, Path(folder), on_redis=False) as path:
        experiment = Path(folder) / "run" / "serving" / "experiment.yaml"
        figures |= measure(path, experiment, bodies, seconds, pairs)
    figures["environment"] = environment("torchserve", "kserve")
    print(json.dumps({name: figures[name] for name in ("ratio", "ratio_quartiles", "shadows")}, indent=1))
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
