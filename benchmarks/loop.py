"""Measures how long each step of the whole loop takes.

Commands:

    python benchmarks/loop.py                       # the same as `make run`
    python benchmarks/loop.py --quick               # fewer users and epochs, same code
    python benchmarks/loop.py --data kuairand_sequence.csv.gz --dataset kuairand-sequence
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _environment import environment, finish, parser

from benchmarks._markdown import Figures, Show, compared, measured_on, table
from pipelines.loop.config import LoopConfig
from pipelines.loop.run import run_loop

# The table omits steps that take fewer seconds.
_SHORT = 2.0


def main() -> None:
    options = parser(__doc__, "1,000 users, 2 epochs, 2 rounds")
    options.add_argument("--data", default="", help="raw exposure log; empty for the simulator")
    options.add_argument("--dataset", default="simulator", help="name of its data set description")
    options.add_argument("--runtime", default=LoopConfig.runtime, help="model server; default: %(default)s")
    arguments = options.parse_args()
    small: dict[str, Any] = {"users": 1000, "epochs": 2, "rounds": 2} if arguments.quick else {}
    with tempfile.TemporaryDirectory() as root:
        config = LoopConfig(
            data=arguments.data, dataset=arguments.dataset, runtime=arguments.runtime, root=Path(root), **small
        )
        run = run_loop(config, lambda *_: None)
        summary = json.loads((run / "summary.json").read_text())
    figures = {
        **{name: summary[name] for name in ("dataset", "rows", "seconds")},
        **{name: summary["serving"][name] for name in ("decisions", "p50_ms", "p99_ms", "errors", "fallbacks")},
        "gate": summary["gate"]["decision"],
        **{name: summary["experiment"][name] for name in ("lift", "lift_ci", "true_lift")},
        "clean_alerts": len(summary["monitor"]["clean"]["alarms"]),
        "steps": {name: step["seconds"] for name, step in summary["steps"].items()},
        "environment": environment("torch", "kfp", "feast", "torchserve", "kserve", "evidently"),
    }
    for step, value in figures["steps"].items():
        print(f"{step:<20} {value:7.1f} s")
    print(f"{'all':<20} {summary['seconds']:7.1f} s   {summary['dataset']}, {summary['rows']:,} rows")
    finish(figures, arguments.json)


def loop_table(results: Sequence[Figures]) -> str:
    results = sorted(results, key=lambda result: result["true_lift"] is None)
    rows: dict[str, Show] = {
        "touchpoints": lambda result: f"{result['rows']:,}",
        "decisions over HTTP": lambda result: f"{result['decisions']:,}",
        "errors, fallbacks": lambda result: f"{result['errors']}, {result['fallbacks']}",
        "latency p50, p99": lambda result: f"{result['p50_ms']:.0f} ms, {result['p99_ms']:.0f} ms",
        "gate": lambda result: result["gate"],
        "lift in clicks per decision": _lift,
        "true lift": lambda result: "unknown" if result["true_lift"] is None else f"{result['true_lift']:+.4f}",
        "drift alerts on live traffic": lambda result: str(result["clean_alerts"]),
        "**whole loop**": lambda result: f"{result['seconds']:.0f} s",
    }
    body = compared(rows, results)
    for step in results[0]["steps"]:
        seconds = [result["steps"].get(step, 0.0) for result in results]
        if max(seconds) >= _SHORT:
            body.append([f"step {step}", *(f"{one:.1f} s" for one in seconds)])
    return table(["", *(result["dataset"] for result in results)], body) + measured_on(results[0], "loop.py")


def _lift(result: Figures) -> str:
    low, high = result["lift_ci"]
    return f"{result['lift']:+.4f} " + ("(too few users)" if low is None else f"[{low:+.4f}, {high:+.4f}]")


if __name__ == "__main__":
    main()
