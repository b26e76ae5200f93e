"""Where the time of the whole loop goes, with either runtime of the models, and where it went at an earlier revision.

All in turns, on one machine: a run at the earlier revision, one of today's with TorchServe, one with the predictor.

Commands:

    git worktree add ../before REVISION
    python benchmarks/loop_stages.py ../before                   # three turns of each, about twenty minutes
    python benchmarks/loop_stages.py ../before --quick           # fewer users and epochs, one turn

Both run in this environment, so REVISION must be one that its packages fit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from _environment import environment, finish

from benchmarks._before import checkouts, revision, run_in
from benchmarks._markdown import Figures, measured_on, table

_SHORT = 0.5  # seconds: steps that take less at both revisions are one row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the earlier revision")
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="1,000 users, 2 epochs, 2 rounds, one turn")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    both = checkouts(arguments.before)
    quick = ["--quick"] if arguments.quick else []
    loops = {
        "before": (both["before"], quick),
        "now": (both["now"], [*quick, "--runtime", "torchserve"]),
        "predictor": (both["now"], [*quick, "--runtime", "predictor"]),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in loops}
    for turn in range(1 if arguments.quick else arguments.turns):
        for name, (checkout, options) in loops.items():
            runs[name].append(_loop(checkout, options))
            print(f"turn {turn + 1}, {name}: {runs[name][-1]['seconds']:.1f} s", flush=True)
    figures: dict[str, Any] = {
        name: {
            "revision": revision(loops[name][0]),
            "seconds": [run["seconds"] for run in of],
            "steps": {step: [run["steps"].get(step, 0.0) for run in of] for step in of[0]["steps"]},
        }
        for name, of in runs.items()
    }
    figures["decisions"] = {name: of[0]["decisions"] for name, of in runs.items()}
    figures["environment"] = environment("torch", "kfp", "feast", "torchserve", "kserve", "evidently")
    print(stages_table(figures))
    finish(figures, arguments.json)


def stages_table(figures: Figures) -> str:
    """The steps of the loop before and now, in the order of a run."""
    names = "before", "now", "predictor"
    of = {name: {step: median(seconds) for step, seconds in figures[name]["steps"].items()} for name in names}
    steps = [*of["now"], *(step for step in of["before"] if step not in of["now"])]
    long = [step for step in steps if max(of[name].get(step, 0.0) for name in names) >= _SHORT]
    rows = [_row(step, [of[name].get(step, 0.0) for name in names]) for step in long]
    rest = [sum(seconds for step, seconds in of[name].items() if step not in long) for name in names]
    whole = [median(figures[name]["seconds"]) for name in names]
    between = [all_of_it - sum(of[name].values()) for name, all_of_it in zip(names, whole, strict=True)]
    rows += [_row("the others", rest), _row("between the steps", between), _row("**whole loop**", whole)]
    now = figures["now"]["revision"]
    heads = figures["before"]["revision"], f"{now}, TorchServe", "ratio", f"{now}, predictor", "ratio"
    decisions = ", ".join(f"{figures['decisions'][name]:,}" for name in names)
    runs = len(figures["now"]["seconds"])
    words = f"Seconds, medians of {runs} runs of each in turns, with {decisions} decisions; ratios to the first column."
    return f"{words}\n\n" + table(["step", *heads], rows) + measured_on(figures, "loop_stages.py")


def _row(name: str, seconds: list[float]) -> list[str]:
    before, now, predictor = seconds
    cells = [f"{before:.1f}"]
    for one in (now, predictor):
        cells += [f"{one:.1f}", f"{one / before:.2f}" if before >= _SHORT else ""]
    return [name, *cells]


def _loop(checkout: Path, options: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "loop.json"
        run_in(checkout, ["benchmarks/loop.py", *options, "--json", str(result)])
        measured: dict[str, Any] = json.loads(result.read_text())
    return measured


if __name__ == "__main__":
    main()
