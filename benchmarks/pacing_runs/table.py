"""The table of `pacing.py`."""

from __future__ import annotations

from benchmarks._markdown import Figures, measured_on, table


def pacing_table(figures: Figures) -> str:
    """One policy in both arms, a row for each kind of run."""
    rows = [
        [
            one["kind"],
            f"{one['decisions_a_day']:,}",
            f"{one['days']:.2g}",
            f"{one['spent_incumbent']:.1%}",
            f"{one['spent_challenger']:.1%}",
            f"{one['lift']:+.1%} +- {one['lift_margin']:.1%}",
            ", ".join(f"{n} {token}" for token, n in one["verdicts"].items() if token != "inconclusive") or "0",
        ]
        for one in figures["kinds"]
    ]
    heads = [
        "share of the challenger, budget",
        "decisions a day",
        "days",
        "spent, incumbent",
        "spent, challenger",
        "lift (true: 0)",
        f"false verdicts of {figures['kinds'][0]['seeds']}",
    ]
    return table(heads, rows) + measured_on(figures, "pacing.py")
