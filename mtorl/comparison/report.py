"""The figures of a comparison as Markdown: docs/results.md.

    text = report(results, machine)      # results: `jobs.collect`

Folds test on different users, so their mean has a smaller interval than one fold alone: the standard errors, taken from
the folds' own intervals, add up in squares. Seeds of the time protocol test on the same rows, so the mean interval is
kept. Differences are paired: MTORL less LightGBM on the same rows.

Each table takes the tasks of a protocol, which are its folds or seeds; `disjoint` says whether they test on different
users.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtorl.comparison.authors_protocol import LOOKUP
from mtorl.comparison.jobs import ABOUT, AUTHORS
from mtorl.comparison.methods import ABLATIONS, BASELINES, OURS, YARDSTICK
from mtorl.evaluation.gate import MARGIN

Results = Mapping[str, Any]
Tasks = Sequence[Mapping[str, Any]]
Interval = tuple[float, float, float]  # mean, lower and upper bound

_Z = 1.96  # standard errors of a 95 % interval

NAMES = {
    OURS: "**MTORL**",
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
    **{f"{OURS} {name}": f"MTORL {name}" for name in ABLATIONS},
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
# Published: MTORL.ipynb of the authors' repository.
_PUBLISHED_ON = "kuairand-sequence"
_NOTEBOOK = {"accuracy": 0.680, "AUC": 0.825, "F1": 0.673, "policy CTR": 0.2563, "original CTR": 0.1835}
_RULES = {
    "cheapest": "cheapest predicted",
    "predicted_gain": "top predicted gain",
    "random": "random",
    "oracle": "oracle",
}

_INTRODUCTION = """No method has seen the outcomes of the rows that a figure is about. *user*: the test users are
neither training nor validation users, and differ from fold to fold. *time*: the test is the end of the log, the same
for each seed. `±` is the standard deviation over folds or seeds, `[a, b]` a 95 % interval from resampling users (folds
test on different users but share most of their training users). Methods with a dash predict no reward. MTORL's settings
were chosen on validation users of the pipeline's split and partly by looking at test users of other folds than these;
the end of the log was looked at as well. All other methods have fixed settings and stop on validation rows. What the
figures cannot tell: `docs/limitations.md`. What the methods are: `docs/model.md` and `mtorl/baselines/`.""".replace(
    "\n", " "
)
_CALIBRATION = """What limits MTORL's calibration. Noise is the error that a perfectly calibrated head would show on as
many independent rows, with labels drawn from its own probabilities: the mean of a fold, and what one draw in forty
exceeds. The last column sets the overall rate of the reward head to that of the test, which cannot be known in
advance.""".replace("\n", " ")


def report(results: Results, machine: Mapping[str, str]) -> str:
    """All tables; `machine` maps names of facts to values."""
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    tasks = [task for figures in results.values() for name in ("user", "time") for task in figures.get(name, ())]
    minutes = sum(cost["seconds"] for task in tasks for cost in task["costs"].values()) / 60
    parts = [
        "# Results",
        f"Made by `mtorl benchmark paper` ({facts}); do not edit. {_INTRODUCTION}",
        f"All trainings together: {minutes:.0f} CPU minutes, one thread each.",
    ]
    for dataset, figures in results.items():
        verdict = figures[ABOUT]["independence"]["verdict"]
        parts += [f"## {dataset}", f"Is the logged channel independent of what was known before? {verdict}"]
        for protocol in ("user", "time"):
            if protocol in figures:
                parts += _protocol(protocol, figures[protocol])
        if authors_rows := [row for row in figures.get(AUTHORS, ()) if row]:
            parts += ["### The authors' protocol (leaky, not a goal)", authors_table(authors_rows, dataset)]
    return "\n\n".join(parts) + "\n"


def _protocol(protocol: str, tasks: Tasks) -> list[str]:
    disjoint = protocol == "user"
    rows, users = (np.mean([task[name] for task in tasks]) for name in ("rows", "users"))
    repeats = f"{len(tasks)} {'fold' if disjoint else 'seed'}{'s' * (len(tasks) > 1)}"
    out = [
        f"### Protocol `{protocol}`",
        f"{repeats}, on average {rows:,.0f} test rows of {users:,.0f} users.",
        method_table(tasks),
        "Differences on the same rows and resamples:",
        paired_table(tasks, disjoint),
    ]
    if not disjoint:  # what policies are worth, whole users say
        return out
    if tasks[0]["budget"]:
        out += ["Share of all gain that a share of the spend buys:", budget_table(tasks)]
    out += ["Value of channel policies, always exposing, on the 37.5 % of rows with the highest expected gain:"]
    out += [policy_value_table(tasks), target_text(tasks)]
    return [*out, _CALIBRATION, calibration_table(tasks)]


def method_table(tasks: Tasks) -> str:
    """Figures of every method, with the time of its training and its size."""
    there = tasks[0]["compared"]["metrics"]
    every = (OURS, *BASELINES, *(f"{OURS} {a}" for a in ABLATIONS))
    order = [name for name in every if name in there]
    lines = []
    for name in order:
        have = [task for task in tasks if name in task["compared"]["metrics"]]
        cells = [spread([task["compared"]["metrics"][name][metric] for task in have], 4) for metric in HEADS]
        costs = [task["costs"][name] for task in have if name in task["costs"]]
        seconds = f"{np.mean([cost['seconds'] for cost in costs]):.0f} s" if costs else ""
        size = costs[0]["parameters"] if costs else None
        lines.append([NAMES[name], *cells, seconds, f"{size:,}" if size else ""])
    return table(["method", *HEADS.values(), "training, CPU", "parameters"], lines)


def paired_table(tasks: Tasks, disjoint: bool) -> str:
    """Differences of MTORL from LightGBM."""
    differences = [task["compared"]["differences"][OURS] for task in tasks]
    cells = [interval(combined(differences, metric, disjoint), signed=True) for metric in HEADS]
    return table(["", *HEADS.values()], [[f"{NAMES[OURS]} less LightGBM", *cells]])


def budget_table(tasks: Tasks) -> str:
    """Share of all gain that a share of the spend buys, by who chooses the exposures."""
    lines = []
    for i, share in enumerate(row["share"] for row in tasks[0]["budget"][OURS]):
        ours, theirs = ([task["budget"][name][i] for task in tasks] for name in (OURS, YARDSTICK))
        cells = [percent(np.mean([row["mtorl"] for row in rows])) for rows in (ours, theirs)]
        cells += [percent(np.mean([row[rule] for row in ours])) for rule in _RULES]
        less = [combined(ours, f"mtorl_minus_{name}", True) for name in ("cheapest", "rival")]
        lines.append([f"{100 * share:g} %", *cells, *(interval(value, signed=True) for value in less)])
    head = ["budget", "**MTORL** gain / cost", "LightGBM gain / cost", *_RULES.values()]
    head += ["MTORL less cheapest", "MTORL less LightGBM"]
    return table(head, lines)


def policy_value_table(tasks: Tasks) -> str:
    """Off-policy values of each method's policies."""
    lines = []
    for name in tasks[0]["value"]:
        method, policy = name.split(": ")
        values = [task["value"][name] for task in tasks]
        shares = [value["importance_weights"]["ess_share"] for value in values]
        cells = [interval(combined(values, "logged", True), places=3)]
        for estimator in ("ips", "snips", "dr"):
            rows = [value["estimates"].get(estimator, {}) for value in values]
            cells.append(interval(combined(rows, "value", True), places=3))
        lifts = [value["estimates"].get("dr", {}) for value in values]
        rejections = [value["not_evaluable"] for value in values if value["not_evaluable"]]
        cells.append(interval(combined(lifts, "lift", True), signed=True, places=3))
        cells.append(f"{np.mean(shares):.2f}")
        cells.append(f"{np.mean([value['importance_weights']['overlap'] for value in values]):.2f}")
        cells.append(f"not evaluable: {rejections[0]}" if rejections else "")
        lines.append([f"{NAMES[method]}: {policy}", *cells])
    head = ["policy", "as logged", "IPS", "SNIPS", "DR", "DR less logged", "ESS / rows", "overlap", ""]
    return table(head, lines)


def target_text(tasks: Tasks) -> str:
    """MTORL's greedy choice against the best constant channel: the difference, the margin, and whether it is met."""
    targets = [task["target"] for task in tasks]
    title = "**Target: never below the best constant channel.**"
    if any(target["channel"] is None for target in targets):
        return f"{title} The log can't tell which channel that is."
    difference = combined(targets, "difference", True)
    assert difference is not None
    worth = float(np.mean([target["constant"] for target in targets]))
    channels = ", ".join(sorted({target["channel"] for target in targets}))
    return (
        f"{title} That channel is the best one of training and validation users ({channels}). MTORL's best expected "
        f"gain less this channel, always exposing, on all test rows, paired: {interval(difference, signed=True)}; the "
        f"channel earns {worth:.4f}. The lower end has to be at least -{MARGIN:.0%} of that: "
        f"**{'met' if difference[1] >= -MARGIN * worth else 'not met'}**."
    )


def calibration_table(tasks: Tasks) -> str:
    """Calibration errors of MTORL beside those of a perfectly calibrated head."""
    lines = []
    for metric, title in (("action_ece", "channel ECE"), ("reward_ece", "reward ECE")):
        noises = [task["calibration_noise"][metric] for task in tasks]
        measured = np.mean([task["compared"]["metrics"][OURS][metric] for task in tasks])
        noise, high = (np.mean([row[name] for row in noises]) for name in ("noise", "noise_high"))
        shift = f"{np.mean([row['less_shift'] for row in noises]):.4f}" if "less_shift" in noises[0] else ""
        lines.append([title, f"{measured:.4f}", f"{noise:.4f}, {high:.4f}", shift])
    return table(["", "measured", "noise alone: mean, high", "with the overall rate of the test"], lines)


def authors_table(rows: Tasks, dataset: str) -> str:
    """Figures under the authors' protocol, one row of `rows` for each seed, and what they mean."""
    metrics = {"accuracy": "action_accuracy", "AUC": "action_auc", "F1": "action_f1"}
    lines = []
    for method, title in ((LOOKUP, "lookup table, here"), (OURS, "MTORL, here, with its usual settings")):
        cells = [spread([row[method]["metrics"][name] for row in rows], 3) for name in metrics.values()]
        cells.append(spread([row[method]["policy_ctr"] for row in rows], 3))
        lines.append([title, *cells, *(spread([row[name] for row in rows], 3) for name in ("original_ctr", "overlap"))])
    notebook = [f"{_NOTEBOOK[name]:.3f}" for name in (*metrics, "policy CTR", "original CTR")]
    head = ["", *metrics, "authors' policy CTR", "original CTR", "test touchpoints seen in training"]
    text = (
        "Windows are drawn with replacement and only then divided into training and test, so many test labels are in "
        "the training set, and a table that looks them up does well. The authors' policy CTR counts clicks where the "
        "predicted channel is the logged one, and divides by all selected rows. What MTORL scores here above its "
        "figures under the other protocols is what it has memorised of the test."
    )
    if dataset == _PUBLISHED_ON:
        lines.append(["MTORL as published", *notebook, ""])
        text += " The published model scores lower than the table."
    return f"{table(head, lines)}\n\n{text}"


def combined(differences: Sequence[Mapping[str, Any]], metric: str, disjoint: bool) -> Interval | None:
    """Mean of a difference (NAME and NAME_ci of each fold) and its interval; disjoint folds test different users."""
    rows = [row for row in differences if row.get(metric) is not None and row.get(f"{metric}_ci")]
    if not rows:
        return None
    mean = float(np.mean([row[metric] for row in rows]))
    errors = np.array([(row[f"{metric}_ci"][1] - row[f"{metric}_ci"][0]) / (2 * _Z) for row in rows])
    error = float(np.sqrt((errors**2).sum()) / len(rows)) if disjoint else float(errors.mean())
    return mean, mean - _Z * error, mean + _Z * error


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def spread(values: Sequence[float | None], places: int) -> str:
    """Mean of folds or seeds and, of several, their standard deviation; "-" without numbers."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    text = f"{np.mean(numbers):.{places}f}"
    return text if len(numbers) == 1 else f"{text} ± {np.std(numbers, ddof=1):.{places}f}"


def percent(value: float) -> str:
    """A share as a percentage; "-" for NaN."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def interval(value: Interval | None, signed: bool = False, places: int = 4) -> str:
    """A mean with its bounds; "-" for None."""
    if value is None:
        return "-"
    form: Callable[[float], str] = (lambda x: f"{x:+.{places}f}") if signed else (lambda x: f"{x:.{places}f}")
    return f"{form(value[0])} [{form(value[1])}, {form(value[2])}]"
