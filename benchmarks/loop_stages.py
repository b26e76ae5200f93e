"""Where the time of the whole loop goes, and where it went at an earlier revision: both in turns, on one machine.

Commands:

    git worktree add ../before REVISION
    python benchmarks/loop_stages.py ../before                   # three turns of each, about a quarter of an hour
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
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in both}
    for turn in range(1 if arguments.quick else arguments.turns):
        for name, checkout in both.items():
            runs[name].append(_loop(checkout, arguments.quick))
            print(f"turn {turn + 1}, {name}: {runs[name][-1]['seconds']:.1f} s", flush=True)
    figures: dict[str, Any] = {
        name: {
            "revision": revision(both[name]),
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
    before, now = (
        {step: median(seconds) for step, seconds in figures[name]["steps"].items()} for name in ("before", "now")
    )
    steps = [*now, *(step for step in before if step not in now)]
    long = [step for step in steps if max(before.get(step, 0.0), now.get(step, 0.0)) >= _SHORT]
    rows = [_row(step, before.get(step, 0.0), now.get(step, 0.0)) for step in long]
    rest = [sum(seconds for step, seconds in of.items() if step not in long) for of in (before, now)]
    whole = [median(figures[name]["seconds"]) for name in ("before", "now")]
    rows += [
        _row("the others", *rest),
        _row("between the steps", *(w - sum(s.values()) for w, s in zip(whole, (before, now), strict=True))),
    ]
    rows.append(_row("**whole loop**", *whole))
    decisions = figures["decisions"]
    return (
        f"Seconds, medians of {len(figures['now']['seconds'])} runs of each revision in turns; "
        f"{decisions['before']:,} and {decisions['now']:,} decisions.\n\n"
        + table(["step", figures["before"]["revision"], figures["now"]["revision"], "ratio"], rows)
        + measured_on(figures, "loop_stages.py")
    )


def _row(name: str, before: float, now: float) -> list[str]:
    return [name, f"{before:.1f}", f"{now:.1f}", f"{now / before:.2f}" if before >= _SHORT else ""]


def _loop(checkout: Path, quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "loop.json"
        run_in(checkout, ["benchmarks/loop.py", *(["--quick"] if quick else []), "--json", str(result)])
        measured: dict[str, Any] = json.loads(result.read_text())
    return measured


if __name__ == "__main__":
    main()
