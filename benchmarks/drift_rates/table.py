"""Tables of the drift check: how often it is wrong, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median, stdev

from scipy.stats import beta, t

from benchmarks._markdown import Figures, measured_on, table


def job_table(figures: Figures) -> str:
    """CPU time and memory of a check, with thresholds that training has left and without."""
    runs = figures["runs"]
    cpu = {name: median(run["cpu_seconds"] for run in found) for name, found in runs.items()}
    peak = {name: max(run["peak_mib"] for run in found) for name, found in runs.items()}
    names = {"kept": "kept in the artifact", "calibrated": "calibrated by the check"}
    rows = [
        [names[name], f"{cpu[name]:.1f}", f"{cpu[name] / cpu['calibrated']:.2f}", f"{peak[name]:.0f}"] for name in names
    ]
    head = f"`mtorl drift` on {figures['rows']:,} decisions of {figures['columns']} columns.\n\n"
    body = table(["thresholds", "CPU s (aim: 10)", "ratio", "peak memory, MiB (aim: 1,024)"], rows)
    added = f"\nMeasuring the thresholds adds {figures['training_cpu_seconds']:.0f} CPU s to a training.\n"
    return head + body + added + measured_on(figures, "drift_job.py")


def rates_table(results: Sequence[Figures]) -> str:
    """Share of periods without drift that alarm, a table for each data set."""
    text = ""
    for figures in results:
        rows = []
        for run in figures["runs"]:
            new, old = (run["alarms"][name] for name in ("stretch", "last"))
            rows.append(
                [
                    run["periods_of"],
                    f"{run['users']:,}",
                    f"{run['periods']:,}",
                    _rate(new["of_split"], run["periods"]),
                    _rate(old["of_split"], run["periods"]),
                    ", ".join(f"`{name}` {count}" for name, count in Counter(old["columns"]).most_common(2)),
                ]
            )
        heads = ["periods of", "users", "periods", "alarms", "with last touchpoints as reference", "most of these by"]
        text += f"**{figures['dataset']}**, chosen rate {figures['alpha']:.0%}\n\n{table(heads, rows)}\n"
    return text + measured_on(results[0], "drift.py").lstrip("\n")


def _rate(of_split: Sequence[int], periods: int) -> str:
    low, high = interval(of_split, periods)
    return f"{sum(of_split) / periods:.1%} [{low:.1%}, {high:.1%}]"


def interval(of_split: Sequence[int], periods: int) -> tuple[float, float]:
    """95 % interval of a rate: the wider of Clopper and Pearson's and of that of the splits' mean."""
    alarms, splits = sum(of_split), len(of_split)
    exact_low = float(beta.ppf(0.025, alarms, periods - alarms + 1)) if alarms else 0.0
    exact_high = float(beta.ppf(0.975, alarms + 1, periods - alarms)) if alarms < periods else 1.0
    rate, each = alarms / periods, periods / splits
    margin = float(t.ppf(0.975, splits - 1)) * stdev([count / each for count in of_split]) / splits**0.5
    return max(0.0, min(exact_low, rate - margin)), min(1.0, max(exact_high, rate + margin))
