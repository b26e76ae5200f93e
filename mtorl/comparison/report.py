"""The figures of a comparison as Markdown: docs/results.md.

    text = report(results, machine)      # results: `jobs.collect`

Folds test on different users, so their means have smaller intervals than one fold alone: standard errors, read off the
folds' own intervals, add up in squares. Seeds of the time protocol test on the same rows; there the mean interval
stands. The paired columns are MTORL less LightGBM on the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtorl.comparison.jobs import ABOUT, AUTHORS
from mtorl.comparison.legacy import LOOKUP
from mtorl.comparison.methods import ABLATIONS, BASELINES, BLEND, HALVED, OURS, YARDSTICK

Results = Mapping[str, Any]

NAMES = {
    OURS: "**MTORL**",
    BLEND: "mean of MTORL and LightGBM",
    YARDSTICK: "LightGBM",
    "channel_frequency": "channel frequency (incumbent)",
    "repeat_last": "repeat last",
    "markov": "Markov, running rate",
    "logistic": "logistic regression",
    "behaviour_cloning": "behaviour cloning",
    "cql": "CQL",
    "iql": "IQL",
    "bcq": "BCQ",
    "decision_transformer": "Decision Transformer",
    "online_dt": "Online DT (offline phase)",
    **{f"{OURS} {name}": f"MTORL {name}" for name in ABLATIONS},
    HALVED[OURS]: "MTORL of half the users",
    HALVED[YARDSTICK]: "LightGBM of half the users",
}
HEADS = {
    "action_accuracy": "accuracy",
    "action_auc": "AUC",
    "action_f1": "F1",
    "action_logloss": "log-loss",
    "action_ece": "ECE",
    "reward_auc": "reward AUC",
    "reward_logloss": "log-loss",
    "reward_ece": "ECE",
}
_PAIRED = ("action_accuracy", "action_auc", "action_logloss", "reward_auc", "reward_logloss")
_HIGHER = ("action_accuracy", "action_auc", "reward_auc")
_LEARNING = ("action_auc", "action_logloss", "reward_auc", "reward_logloss")
_ECE = 0.012  # at most
_NOT_WORSE = 0.002  # of the yardstick, for a reward metric
_Z = 1.96
# Published: MTORL.ipynb of the authors' repository.
_PUBLISHED_ON = "kuairand-sequence"
_NOTEBOOK = {"accuracy": 0.680, "AUC": 0.825, "F1": 0.673, "policy CTR": 0.2563, "original CTR": 0.1835}


def report(results: Results, machine: Mapping[str, str]) -> str:
    """All tables.

    Args:
        results: See `mtorl.comparison.jobs.collect`.
        machine: What it ran on: name of a fact -> value.
    """
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    parts = [
        "# Results",
        f"Made by `mtorl benchmark paper` ({facts}); do not edit. {_INTRODUCTION}",
        "## Targets",
        "Undecided: the interval holds zero. Within noise: a perfectly calibrated head could show as much.",
        _targets(results),
        f"All trainings together: {_cpu_minutes(results):.0f} CPU minutes, one thread each.",
    ]
    for dataset, found in results.items():
        parts += [f"## {dataset}", _about(found[ABOUT])]
        for protocol in ("user", "time"):
            if protocol in found:
                parts += _protocol(protocol, found[protocol])
        if legacy := [row for row in found.get(AUTHORS, ()) if row]:
            parts += ["### The authors' protocol (leaky, not a goal)", _legacy(legacy, dataset)]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """Every figure is of rows whose outcome no method has seen: *user*: other users than those of training
and validation, a fold each time; *time*: the end of the log, a seed each time. `±` is the spread (standard deviation)
over folds or seeds, `[a, b]` a 95 % interval that resamples users (folds test on other users, but share most of their
training users). Methods marked with a dash predict no reward. MTORL's settings were chosen on validation users of the
pipeline's split and, in part, with an eye on test users of other folds than these; the end of the log was looked at,
too. The others have fixed settings and stop on validation rows. What the figures cannot tell: `docs/limitations.md`.
What the methods are: `docs/model.md` and `mtorl/baselines/`.""".replace("\n", " ")


def combined(
    differences: Sequence[Mapping[str, Any]], metric: str, disjoint: bool
) -> tuple[float, float, float] | None:
    """Mean of a difference over folds or seeds, and its interval.

    Args:
        differences: Of each fold: NAME and NAME_ci.
        metric: NAME.
        disjoint: Whether the folds are of different users.
    """
    rows = [row for row in differences if row.get(metric) is not None and row.get(f"{metric}_ci")]
    if not rows:
        return None
    mean = float(np.mean([row[metric] for row in rows]))
    errors = np.array([(row[f"{metric}_ci"][1] - row[f"{metric}_ci"][0]) / (2 * _Z) for row in rows])
    error = float(np.sqrt((errors**2).sum()) / len(rows)) if disjoint else float(errors.mean())
    return mean, mean - _Z * error, mean + _Z * error


def _protocol(protocol: str, tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    disjoint = protocol == "user"
    rows, users = (np.mean([task[name] for task in tasks]) for name in ("rows", "users"))
    repeats = f"{len(tasks)} {'fold' if disjoint else 'seed'}{'s' * (len(tasks) > 1)}"
    out = [
        f"### Protocol `{protocol}`",
        f"{repeats}, on average {rows:,.0f} test rows of {users:,.0f} users.",
        _methods(tasks),
        "Paired on the same rows and resamples; what the mean of both adds says how much these inputs still hold:",
        _paired(tasks, disjoint),
    ]
    if tasks[0]["budget"]:
        out += ["Share of all gain that a share of the spend buys:", _budget(tasks, disjoint)]
    out += ["Value of channel policies, always exposing, on the 37.5 % of rows with the highest expected gain:"]
    out += [_values(tasks, disjoint)]
    if tasks[0]["journeys"]:
        out += ["Gain of the first steps of a journey under the decision rule, per-decision importance sampling:"]
        out += [_journeys(tasks, disjoint)]
    out += [_CEILINGS, _ceilings(tasks)]
    if tasks[0]["learning"]:
        out += ["What half of the training users cost, paired on the same test rows:", _learning(tasks, disjoint)]
    return out


_CEILINGS = """What stands in the way of MTORL's calibration: a perfectly calibrated head would show the noise on as
many independent rows (labels drawn from its own probabilities; their mean, and what one draw in forty exceeds in a
fold). The last column grants the reward head the overall rate of the test, which nobody could know.""".replace(
    "\n", " "
)


def _methods(tasks: Sequence[Mapping[str, Any]]) -> str:
    there = tasks[0]["compared"]["metrics"]
    every = (OURS, BLEND, *BASELINES, *(f"{OURS} {a}" for a in ABLATIONS), *HALVED.values())
    order = [name for name in every if name in there]
    lines = []
    for name in order:
        have = [task for task in tasks if name in task["compared"]["metrics"]]
        cells = [_spread([task["compared"]["metrics"][name][metric] for task in have], 4) for metric in HEADS]
        costs = [task["costs"][name] for task in have if name in task["costs"]]
        seconds = f"{np.mean([cost['seconds'] for cost in costs]):.0f} s" if costs else ""
        size = costs[0]["parameters"] if costs else None
        lines.append([NAMES[name], *cells, seconds, f"{size:,}" if size else ""])
    return _table(["method", *HEADS.values(), "training, CPU", "parameters"], lines)


def _paired(tasks: Sequence[Mapping[str, Any]], disjoint: bool) -> str:
    lines = []
    for name in (OURS, BLEND):
        differences = [task["compared"]["differences"][name] for task in tasks]
        cells = [_interval(combined(differences, metric, disjoint), signed=True) for metric in HEADS]
        lines.append([f"{NAMES[name]} less LightGBM", *cells])
    return _table(["", *HEADS.values()], lines)


def _budget(tasks: Sequence[Mapping[str, Any]], disjoint: bool) -> str:
    lines = []
    for i, share in enumerate(row["share"] for row in tasks[0]["budget"][OURS]):
        ours, theirs = ([task["budget"][name][i] for task in tasks] for name in (OURS, YARDSTICK))
        cells = [_percent(np.mean([row["mtorl"] for row in some])) for some in (ours, theirs)]
        cells += [_percent(np.mean([row[rule] for row in ours])) for rule in _RULES]
        less = [combined(ours, f"mtorl_minus_{name}", disjoint) for name in ("cheapest", "rival")]
        lines.append([f"{100 * share:g} %", *cells, *(_interval(value, signed=True) for value in less)])
    head = ["budget", "**MTORL** gain / cost", "LightGBM gain / cost", *_RULES.values()]
    head += ["MTORL less cheapest", "MTORL less LightGBM"]
    return _table(head, lines)


_RULES = {
    "cheapest": "cheapest predicted",
    "predicted_gain": "top predicted gain",
    "random": "random",
    "oracle": "oracle",
}


def _values(tasks: Sequence[Mapping[str, Any]], disjoint: bool) -> str:
    lines = []
    for name in tasks[0]["value"]:
        method, policy = name.split(": ")
        found = [task["value"][name] for task in tasks]
        shares = [value["importance_weights"]["ess_share"] for value in found]
        cells = [_interval(combined(found, "logged", disjoint), places=3)]
        for estimator in ("ips", "snips", "dr"):
            rows = [value["estimates"].get(estimator, {}) for value in found]
            cells.append(_interval(combined(rows, "value", disjoint), places=3))
        lifts = [value["estimates"].get("dr", {}) for value in found]
        doubts = [value["not_evaluable"] for value in found if value["not_evaluable"]]
        cells.append(_interval(combined(lifts, "lift", disjoint), signed=True, places=3))
        cells.append(f"{np.mean(shares):.2f}")
        cells.append(f"{np.mean([value['importance_weights']['overlap'] for value in found]):.2f}")
        cells.append(f"not evaluable: {doubts[0]}" if doubts else "")
        lines.append([f"{NAMES[method]}: {policy}", *cells])
    head = ["policy", "as logged", "IPS", "SNIPS", "DR", "DR less logged", "ESS / rows", "overlap", ""]
    return _table(head, lines)


def _journeys(tasks: Sequence[Mapping[str, Any]], disjoint: bool) -> str:
    lines = []
    for method in tasks[0]["journeys"]:
        found = [task["journeys"][method] for task in tasks]
        cells = [_interval(combined(found, "logged", disjoint), places=3)]
        for name in ("pdis", "snpdis"):
            rows = [value["estimates"][name] for value in found]
            cells.append(_interval(combined(rows, "value", disjoint), places=3))
        lifts = combined([value["estimates"]["snpdis"] for value in found], "lift", disjoint)
        cells.append(_interval(lifts, signed=True, places=3))
        cells.append(", ".join(f"{share:.2f}" for share in np.mean([value["ess_share"] for value in found], axis=0)))
        doubts = [value["not_evaluable"] for value in found if value["not_evaluable"]]
        lines.append([NAMES[method], *cells, f"not evaluable: {doubts[0]}" if doubts else ""])
    head = ["its rule", "as logged", "PDIS", "self-normalised", "less logged", "ESS / journeys after each step", ""]
    return _table(head, lines)


def _ceilings(tasks: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for metric in ("action_ece", "reward_ece"):
        found = [task["ceiling"][metric] for task in tasks]
        measured = np.mean([task["compared"]["metrics"][OURS][metric] for task in tasks])
        noise, high = (np.mean([row[name] for row in found]) for name in ("noise", "noise_high"))
        shift = f"{np.mean([row['less_shift'] for row in found]):.4f}" if "less_shift" in found[0] else ""
        lines.append([_title(metric), f"{measured:.4f}", f"{noise:.4f}, {high:.4f}", shift])
    return _table(["", "measured", "noise alone: mean, high", "with the overall rate granted"], lines)


def _learning(tasks: Sequence[Mapping[str, Any]], disjoint: bool) -> str:
    lines = []
    for name in tasks[0]["learning"]:
        some = [task["learning"][name] for task in tasks]
        lines.append([NAMES[name], *(_interval(combined(some, m, disjoint), signed=True) for m in _LEARNING)])
    return _table(["half the users less all", *(_title(metric) for metric in _LEARNING)], lines)


def _about(found: Mapping[str, Any]) -> str:
    return f"Is the logged channel independent of what was known before? {found['independence']['verdict']}"


def _legacy(rows: Sequence[Mapping[str, Any]], dataset: str) -> str:
    metrics = {"accuracy": "action_accuracy", "AUC": "action_auc", "F1": "action_f1"}
    lines = []
    for method, title in ((LOOKUP, "lookup table, here"), (OURS, "MTORL, here, with its usual settings")):
        cells = [_spread([row[method]["metrics"][name] for row in rows], 3) for name in metrics.values()]
        cells.append(_spread([row[method]["policy_ctr"] for row in rows], 3))
        lines.append(
            [title, *cells, *(_spread([row[name] for row in rows], 3) for name in ("original_ctr", "overlap"))]
        )
    notebook = [f"{_NOTEBOOK[name]:.3f}" for name in (*metrics, "policy CTR", "original CTR")]
    head = ["", *metrics, "authors' policy CTR", "original CTR", "test touchpoints seen in training"]
    text = (
        "Windows are drawn with replacement and only then dealt out to training and test, so many test labels are in "
        "the training set, and a table that looks them up does well. The authors' policy CTR counts clicks where the "
        "predicted channel is the logged one, and divides by all selected rows. What MTORL scores here above "
        "its honest figures is what a dozen epochs remember of the test."
    )
    if dataset == _PUBLISHED_ON:
        lines.append(["MTORL as published", *notebook, ""])
        text += " The published model scores lower than the table."
    return f"{_table(head, lines)}\n\n{text}"


def _cpu_minutes(results: Results) -> float:
    tasks = [task for found in results.values() for protocol in ("user", "time") for task in found.get(protocol, ())]
    return float(sum(cost["seconds"] for task in tasks for cost in task["costs"].values())) / 60


# ---- targets


def _targets(results: Results) -> str:
    lines = [line for dataset, found in results.items() for line in _targets_of(dataset, found)]
    return _table(["data set", "what", "target", "measured", ""], lines)


def _targets_of(dataset: str, found: Mapping[str, Any]) -> list[list[str]]:
    lines = []
    for protocol in (name for name in ("user", "time") if name in found):
        tasks, disjoint = found[protocol], protocol == "user"
        differences = [task["compared"]["differences"][OURS] for task in tasks]
        for metric in _PAIRED:
            value = combined(differences, metric, disjoint)
            if value is None or (metric.startswith("action") and not _channel_has_signal(found)):
                continue
            sign = 1 if metric in _HIGHER else -1
            mean, low, high = _more_is_better(sign, value)
            spared = _NOT_WORSE if metric.startswith("reward") else 0.0
            goal = "at least LightGBM" + (f", or within {spared} of it" if spared else "")
            shown = f"{_interval((mean, low, high), signed=True)} better"
            found_out = _verdict((mean, low, high), spared)
            lines.append([dataset, f"{protocol}: {_title(metric)}", goal, shown, found_out])
        for metric in ("action_ece", "reward_ece"):
            lines.append([dataset, f"{protocol}: {_title(metric)}", f"at most {_ECE}", *_calibrated(tasks, metric)])
        if protocol == "user":
            lines += _user_targets(dataset, tasks)
    return lines


def _user_targets(dataset: str, tasks: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    lines = []
    if tasks[0]["budget"]:
        for i, row in enumerate(tasks[0]["budget"][OURS][:4]):
            ours = [task["budget"][OURS][i] for task in tasks]
            less = [combined(ours, f"mtorl_minus_{name}", True) for name in ("rival", "cheapest")]
            what = f"click share at {100 * row['share']:g} % of spend: {_percent(np.mean([r['mtorl'] for r in ours]))}"
            shown = "; ".join(_interval(value, signed=True) for value in less)
            verdicts = [_verdict(value) for value in less if value is not None]
            worst = max(verdicts, key=("met", "undecided", "**missed**").index)
            goal = "above LightGBM's gain / cost; above cheapest first"
            lines.append([dataset, what, goal, shown, worst])
    else:
        found = [task["value"][f"{OURS}: best expected gain"] for task in tasks]
        lift = combined([value["estimates"]["dr"] for value in found], "lift", True)
        if lift is not None:
            goal = "policy value at 37.5 % exposure above the selection's own"
            share = np.mean([value["importance_weights"]["ess_share"] for value in found])
            shown = f"{_interval(lift, signed=True, places=3)}, ESS / rows {share:.2f}"
            lines.append([dataset, "DR less logged, best expected gain", goal, shown, _verdict(lift)])
    costs = [task["costs"][OURS] for task in tasks]
    seconds = float(np.mean([cost["seconds_to_best"] for cost in costs]))
    what = "training to the best validation, one thread, CPU"
    lines.append(_line(dataset, what, "at most 60 s", f"{seconds:.0f} s", seconds <= 60))
    size = costs[0]["parameters"]
    lines.append(_line(dataset, "parameters", "at most 300,000", f"{size:,}", size <= 300_000))
    return lines


def _calibrated(tasks: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """An error of calibration, and what is to be said of it."""
    ece = float(np.mean([task["compared"]["metrics"][OURS][metric] for task in tasks]))
    noise, high = (np.mean([task["ceiling"][metric][name] for task in tasks]) for name in ("noise", "noise_high"))
    verdict = "met" if ece <= _ECE else "**missed**, within noise" if ece <= high else "**missed**"
    return [f"{ece:.4f}, of it noise {noise:.4f}", verdict]


def _more_is_better(sign: int, value: tuple[float, float, float]) -> tuple[float, float, float]:
    """Mean and bounds of a difference, turned so that more is better."""
    mean, low, high = value
    return (mean, low, high) if sign > 0 else (-mean, -high, -low)


def _channel_has_signal(found: Mapping[str, Any]) -> bool:
    return not found[ABOUT]["independence"]["independent"]


def _title(metric: str) -> str:
    head, name = metric.split("_", 1)
    name = {"auc": "AUC", "ece": "ECE", "logloss": "log-loss"}.get(name, name)
    return f"{'channel' if head == 'action' else 'reward'} {name}"


def _verdict(better: tuple[float, float, float], spared: float = 0.0) -> str:
    """What an interval says of a difference that should not be below zero, or hardly."""
    _, low, high = better
    if low >= -spared:
        return "met"
    return "**missed**" if high < 0 else "undecided"


def _line(dataset: str, what: str, goal: str, measured: str, good: bool) -> list[str]:
    return [dataset, what, goal, measured, "met" if good else "**missed**"]


# ---- cells


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _spread(values: Sequence[float | None], places: int) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    text = f"{np.mean(numbers):.{places}f}"
    return text if len(numbers) == 1 else f"{text} ± {np.std(numbers, ddof=1):.{places}f}"


def _percent(value: float) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _interval(value: tuple[float, float, float] | None, signed: bool = False, places: int = 4) -> str:
    if value is None:
        return "-"
    form: Callable[[float], str] = (lambda x: f"{x:+.{places}f}") if signed else (lambda x: f"{x:.{places}f}")
    return f"{form(value[0])} [{form(value[1])}, {form(value[2])}]"
