"""The request path at an earlier revision and now: closed loops of both in turns, on one machine.

Commands:

    git worktree add ../before REVISION
    python benchmarks/serving_before.py ../before --run runs/latest            # five turns of each, about ten minutes
    python benchmarks/serving_before.py ../before --run runs/latest --quick    # one short turn

Both serve the same run in this environment, with models that each packs itself. REVISION must be one that the packages
of the environment and the run's artifacts fit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from _environment import environment, finish

from benchmarks._before import checkouts, revision, run_in
from benchmarks._markdown import Figures, measured_on, table

CONNECTIONS = ("1", "8", "32")

# Run by either revision, so it asks for what both have.
_MEASURE = """
import json, sys, tempfile
from pathlib import Path
sys.path.append("benchmarks")
from benchmarks.request_path import servers
from benchmarks.serving import Plan, decided, load, users_windows
from serving.archive import package

run, seconds = Path(sys.argv[1]), float(sys.argv[2])
bodies = users_windows(run)[2]
found = {}
with tempfile.TemporaryDirectory() as folder:
    own = Path(folder) / "run"
    own.mkdir()
    for name in ("artifacts", "features", "serving.yaml"):
        (own / name).symlink_to(run / name)
    for artifact in (run / "artifacts").iterdir():
        package(artifact, artifact.name, own / "model-store")
    with servers.router(own, Path(folder) / "path", on_redis=False) as path:
        load(Plan(path.url, bodies, 8, seconds / 2), path.pids)
        for connections in (1, 8, 32):
            measured = load(Plan(path.url, bodies, connections, seconds), path.pids)
            times = measured["latency_ms"]["200"]
            found[str(connections)] = {
                "decided": decided(measured) / seconds,
                "cpu_ms": measured["cpu_ms"],
                "p50_ms": times["p50"],
                "p99_ms": times["p99"],
                "default_actions": sum(measured["fallbacks"].values()) / max(measured["statuses"].get("200", 0), 1),
            }
print(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the earlier revision")
    parser.add_argument("--run", default="runs/latest", help="folder of a finished run")
    parser.add_argument("--turns", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="one turn of three seconds for each figure")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    both, seconds = checkouts(arguments.before), 3.0 if arguments.quick else 12.0
    figures: dict[str, Any] = {name: {"revision": revision(of), "turns": []} for name, of in both.items()}
    for turn in range(1 if arguments.quick else arguments.turns):
        for name, checkout in both.items():
            told = run_in(checkout, ["-c", _MEASURE, str(Path(arguments.run).resolve()), str(seconds)])
            figures[name]["turns"].append(json.loads(told.splitlines()[-1]))
            cpu = ", ".join(f"{each['cpu_ms']:.2f}" for each in figures[name]["turns"][-1].values())
            print(f"turn {turn + 1}, {name}: {cpu} CPU ms a decision", flush=True)
    figures["environment"] = environment("torch", "torchserve", "kserve")
    print(before_table(figures))
    finish(figures, arguments.json)


def before_table(figures: Figures) -> str:
    """Decisions a second, CPU and latency of both revisions, and the ratio of the medians."""
    shown = {
        "CPU ms a decision": ("cpu_ms", 2),
        "decisions in full a second": ("decided", 0),
        "p50, ms": ("p50_ms", 1),
        "p99, ms": ("p99_ms", 1),
        "default actions, %": ("default_actions", 2),
    }
    rows = []
    for connections in CONNECTIONS:
        for name, (key, digits) in shown.items():
            before, now = (
                median(turn[connections][key] for turn in figures[of]["turns"]) * (100 if "%" in name else 1)
                for of in ("before", "now")
            )
            ratio = f"{now / before:.2f}" if before and "%" not in name else ""
            rows.append([f"{connections}: {name}", f"{before:,.{digits}f}", f"{now:,.{digits}f}", ratio])
    return (
        f"Closed loops by the number of connections, ledger on SQLite, TorchServe; medians of "
        f"{len(figures['now']['turns'])} turns of each revision.\n\n"
        + table(["connections", figures["before"]["revision"], figures["now"]["revision"], "ratio"], rows)
        + measured_on(figures, "serving_before.py")
    )


if __name__ == "__main__":
    main()
