"""What collecting decisions costs, and what learning from them brings, as Markdown."""

from __future__ import annotations

from benchmarks._markdown import Figures, measured_on, table
from mtorl.evaluation.gate import MAX_IMPOSSIBLE

_RUNS = {
    "all": "everything at once",
    "hour": "the next hour, with outcomes of the three days before",
    "nothing": "once more, with nothing new",
    "training": "what the next training reads, of all decisions",
}


def collect_table(figures: Figures) -> str:
    """What each run costs."""
    rows = [
        [
            _RUNS[name],
            f"{run['seconds']:.1f} s",
            f"{run['cpu_seconds']:.1f} s",
            f"{run['peak_mib']:,.0f} MiB",
        ]
        for name, run in figures["runs"].items()
    ]
    intro = (
        f"{figures['rows']:,} decisions of ten days, one in five with an outcome; "
        f"{figures['bytes_a_decision']:.0f} bytes a decision are kept.\n\n"
    )
    heads = ["`mtorl data collect`", "time", "CPU time", "peak memory"]
    return intro + table(heads, rows) + measured_on(figures, "collect.py")


def _changes(each: list[float]) -> str:
    return ", ".join(f"{change:+.1%}" for change in each)


def _enough(one: Figures) -> str:
    """Numbers of test users, of which two digits are known; where the gate refuses or errs, more do not help."""
    if one["impossible"] > MAX_IMPOSSIBLE or one["difference_covered"] < 0.9:
        return "no number"
    return ", ".join(f"{float(format(one['test_users_for'][gain], '.2g')):,.0f}" for gain in ("5%", "2%"))


def generations_table(figures: Figures) -> str:
    """What each way of learning from own decisions brings."""
    words = {
        "worth, first and last": lambda one: f"{one['worth'][0]:.4f}, {one['worth'][-1]:.4f}",
        "last over first, each market": lambda one: _changes(one["last_over_first"]),
        "newest model over first, served or not": lambda one: _changes(one["newest_over_first"]),
        "largest fall in a night": lambda one: f"{one['largest_fall']:+.1%}",
        "AUC, first and last": lambda one: f"{one['auc'][0]:.3f}, {one['auc'][-1]:.3f}",
        "estimate over truth": lambda one: f"{one['estimate_over_truth']:+.1%}",
        "intervals that hold the value": lambda one: f"{one['covered']:.0%}",
        "intervals that hold the difference": lambda one: f"{one['difference_covered']:.0%}",
        "half of the difference's interval, of the value, first and last": lambda one: (
            f"{one['half_width'][0]:.1%}, {one['half_width'][1]:.1%}"
        ),
        "test users with which 80 % of those better by 5 %, or by 2 %, would pass": _enough,
        "promoted of those better by 5 % or more": lambda one: "{} of {}".format(*one["much_better"]),
        "promoted of those better by 2 to 5 %": lambda one: "{} of {}".format(*one["better"]),
        "promoted of those better by less": lambda one: "{} of {}".format(*one["alike"]),
        "promoted of those worse": lambda one: "{} of {}".format(*one["worse"]),
        "exposures that the log could not have made": lambda one: f"{one['impossible']:.0%}",
        "exposures left to forecasts": lambda one: f"{one['forecast']:.0%}",
        "mean weight": lambda one: f"{one['mean_weight']:.2f}",
        "entropy of the draw, first and last": lambda one: f"{one['entropy'][0]:.2f}, {one['entropy'][-1]:.2f}",
        "of the budget spent": lambda one: f"{one['spent_share']:.0%}",
    }
    ways = figures["ways"]
    rows = [["markets", *(str(len(figures["markets"][name])) for name in ways)]]
    rows += [[what, *(say(one) for one in ways.values())] for what, say in words.items()]
    intro = (
        f"{figures['nights']} nights a market, {figures['users']:,} newcomers a night. "
        "Worth is clicks per decision at equal money.\n\n"
    )
    return intro + table(["", *ways], rows) + measured_on(figures, "generations.py")
