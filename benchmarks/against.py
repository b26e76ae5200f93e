"""Compares the speed of the request path with that of an older version of the project.

    git worktree add OLD COMMIT
    cd OLD && mtorl run                                 # in the environment of that commit
    python benchmarks/against.py OLD                    # a quarter of an hour
    python benchmarks/against.py OLD --quick            # one pair of each load

The versions receive the same requests in turn, so that other programs slow down both equally.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from _environment import ROOT, environment, finish, parser

from benchmarks._markdown import Figures, measured_on, table, targets
from benchmarks.request_path.load import Plan
from benchmarks.request_path.tables import CONNECTIONS, PATHS, decided, goodput
from benchmarks.serving import cpu_seconds, load, users_windows

AIMS = {"1": 0.6, "8": 0.55}
"""Largest accepted CPU time of the router for a decision, relative to the older version, by number of connections."""
_PAIRS, _SECONDS = 8, 3.0
_HEADS = {"router_cpu_ms": "router's CPU", "cpu_ms": "servers' CPU", "p99_ms": "p99", "per_second": "decisions/s"}
_SERVE = """
import json, sys
from pathlib import Path
from benchmarks.request_path.servers import router
with router(Path("runs/latest").resolve(), Path(sys.argv[1]), sys.argv[2] == "Redis", sys.argv[3]) as path:
    print(json.dumps([path.url, path.router_pid, path.pids]), flush=True)
    sys.stdin.read()
"""


def main() -> None:
    options = parser(__doc__, "one pair of each load")
    options.add_argument("old", type=Path, metavar="OLD", help="folder of the older checkout")
    arguments = options.parse_args()
    old = arguments.old.resolve()
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=old, text=True).strip()
    bodies = users_windows(ROOT / "runs" / "latest")[2]
    pairs = 1 if arguments.quick else _PAIRS
    ratios = {name: compared(name, old, bodies, pairs) for name in PATHS}
    figures = {"old": commit, "pairs": pairs, "ratios": ratios, "environment": environment("torch")}
    print(against_table(figures))
    finish(figures, arguments.json)


def compared(name: str, old: Path, bodies: list[str], pairs: int) -> dict[str, dict[str, list[float]]]:
    """Measure both checkouts alternately, and return ratios of new to old figures by number of connections."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        roots = {"new": ROOT, "old": old}
        sides = [running.enter_context(served(root, Path(folder) / side, name)) for side, root in roots.items()]
        for connections in CONNECTIONS:
            found[connections] = {figure: [] for figure in _HEADS}
            for number in range(pairs + 1):
                turns = (0, 1) if number % 2 else (1, 0)
                measured = {side: measure(sides[side], bodies, int(connections), number) for side in turns}
                for figure, each in found[connections].items():
                    # Pair 0 only warms up both checkouts.
                    if number:
                        each.append(measured[0][figure] / measured[1][figure])
            middle = {figure: f"{statistics.median(each):.2f}" for figure, each in found[connections].items()}
            print(name, connections, middle, flush=True)
    return found


@contextmanager
def served(root: Path, scratch: Path, name: str) -> Iterator[list[Any]]:
    """Serve a checkout's last run; yields the router's URL, its process id, and the ids of all servers."""
    packages = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", _SERVE, scratch, name, "predictor" if name == "predictor" else "torchserve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": packages}, text=True, **pipes) as child:
        try:
            if not (line := child.stdout.readline()):
                raise SystemExit(
                    f"{root}: the servers did not start; the error is above. Is runs/latest a finished run?"
                )
            yield json.loads(line)
        finally:
            child.stdin.close()


def measure(side: list[Any], bodies: list[str], connections: int, seed: int) -> dict[str, float]:
    url, router_pid, pids = side
    before, plan = cpu_seconds([router_pid]), Plan(url, bodies, connections, _SECONDS, seed=seed)
    result = load(plan, pids)
    share = plan.seconds / (plan.seconds + plan.warm_seconds)
    return {
        "router_cpu_ms": 1000 * (cpu_seconds([router_pid]) - before) * share / max(decided(result), 1),
        "cpu_ms": result["cpu_ms"],
        "p99_ms": result["latency_ms"]["200"]["p99"],
        "per_second": goodput(result),
    }


def against_table(figures: Figures) -> str:
    def cell(each: list[float]) -> str:
        low, high = statistics.quantiles(each, n=4)[::2] if len(each) > 1 else (each[0], each[0])
        return f"{statistics.median(each):.2f} [{low:.2f}, {high:.2f}]"

    rows = [
        [f"{name}, {words}", *(cell(figures["ratios"][name][connections][figure]) for figure in _HEADS)]
        for name in PATHS
        for connections, words in CONNECTIONS.items()
    ]
    middle = {
        (name, connections): statistics.median(figures["ratios"][name][connections]["router_cpu_ms"])
        for name in PATHS
        for connections in AIMS
    }
    aims = [
        (f"{name}, {CONNECTIONS[connections]}: router's CPU, at most", AIMS[connections], value, ".2f")
        for (name, connections), value in middle.items()
    ]
    return (
        f"The present request path divided by that of commit {figures['old']}, for full decisions: median and "
        f"quartiles of {figures['pairs']} pairs of loads.\n\n"
        + table(["", *_HEADS.values()], rows)
        + "\n"
        + targets(aims)
        + measured_on(figures, "against.py")
    )


if __name__ == "__main__":
    main()
