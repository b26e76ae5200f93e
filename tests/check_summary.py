"""Assert what a finished run must hold whatever its data: `python tests/check_summary.py runs/latest/summary.json`."""

import json
import sys
from pathlib import Path
from typing import Any

REQUIRED = {
    "dataset": (), "rows": (), "users": (), "windows": (), "seconds": (),
    "train": ("seconds", "best_epoch"),
    "offline": ("action_accuracy", "action_auc", "action_f1", "reward_auc", "reward_logloss"),
    "gate": ("decision", "lower_bound"),
    "serving": ("decisions", "errors", "fallbacks", "p50_ms", "p99_ms"),
    "budget": ("incumbent", "challenger"),
    "experiment": ("arms", "srm_p", "lift", "lift_ci", "true_lift", "verdict"),
    "stages": ("phase", "waits", "moves", "after_promotion"),
    "next_night": (),
    "monitor": ("clean", "shifted"),
    "artifacts": ("incumbent", "challenger", "lake", "report"),
}  # fmt: skip

BUDGET = ("limit", "spent", "reserved", "overspent", "spent_share")


def check(path: Path) -> list[str]:
    """Return everything that is wrong with a summary."""
    summary = json.loads(path.read_text())
    wrong = [f"{key} is missing" for key in REQUIRED if key not in summary]
    wrong += [
        f"{key}.{name} is missing" for key, names in REQUIRED.items() for name in names if name not in summary[key]
    ]
    if wrong:
        return wrong
    offline = summary["offline"]
    for arm, budget in summary["budget"].items():
        wrong += [f"budget.{arm}.{name} is missing" for name in BUDGET if name not in budget]
    if wrong:
        return wrong
    wrong += [f"offline.{name}_ci is missing" for name in REQUIRED["offline"] if f"{name}_ci" not in offline]
    for arm, budget in summary["budget"].items():
        if budget["overspent"] != 0:
            wrong.append(f"budget.{arm}.overspent is {budget['overspent']}")
        if budget["spent"] + budget["reserved"] > budget["limit"] * (1 + 1e-9):
            wrong.append(f"budget.{arm}: spent + reserved is above the limit: {budget}")
        ended_early = summary["stages"]["phase"] in ("stopped", "rolled back")
        if budget["spent_share"] is not None and budget["spent_share"] < 0.9 and not ended_early:
            wrong.append(f"budget.{arm}: only {budget['spent_share']:.1%} was spent; pacing should spend it all")
        if budget["reserved"] > 1e-9:
            wrong.append(f"budget.{arm}: reservations were left open: {budget}")
    wrong += _stages(summary["stages"], summary["experiment"]["verdict"])
    if summary["serving"]["errors"] != 0:
        wrong.append(f"serving.errors is {summary['serving']['errors']}")
    if not 0 < summary["serving"]["decisions"] > 2 * summary["serving"]["fallbacks"]:
        wrong.append(f"no decisions, or most of them fell back: {summary['serving']}")
    clean, shifted = summary["monitor"]["clean"], summary["monitor"]["shifted"]
    if clean["alarms"] or clean["not_judged"]:
        wrong.append(f"monitor.clean: {clean['alarms'] or clean['not_judged']}")
    if not shifted["retrain"] or not shifted["pages"]:
        wrong.append("monitor.shifted: no column has moved, or Evidently has drawn no page")
    for generation in (summary["next_night"] or {"generations": ()})["generations"]:
        apart = abs(generation["mean_weight"] - generation["supported"])
        if apart > 5 * generation["mean_weight_error"]:
            wrong.append(f"next_night: the recorded probabilities do not describe the decisions: {generation}")
    if summary["experiment"]["verdict"] == "srm":
        wrong.append(f"sample ratio mismatch: srm_p {summary['experiment']['srm_p']}")
    wrong += [
        f"artifacts.{k}: {v} is not there" for k, v in summary["artifacts"].items() if not (path.parent / v).exists()
    ]
    return wrong


def _stages(stages: dict[str, Any], verdict: str) -> list[str]:
    """Whether the experiment went through its stages one by one, and ended as the verdict says."""
    wrong = []
    reached = [move["to"] for move in stages["moves"]]
    in_order = [stage for stage in ("shadow", "1%", "5%", "25%", "50%") if stage in reached]
    if reached[:1] != ["shadow"] or reached[: len(in_order)] != in_order or len(reached) > len(in_order) + 1:
        wrong.append(f"stages: {reached} is no way through a ramp")
    if reached[-1:] != [stages["phase"]]:
        wrong.append(f"stages.phase is {stages['phase']}, and the last move went to {reached[-1:]}")
    if (verdict == "ship") != (stages["phase"] == "promoted") and reached[-1:] == ["50%"]:
        wrong.append(f"stages.phase is {stages['phase']}, and the verdict {verdict}")
    if after := stages["after_promotion"]:
        if not 0 < after["decisions"] == after["incumbent"] == after["promoted_model"] + after["fallbacks"]:
            wrong.append(f"after the promotion not everybody got the challenger's model: {after}")
    elif stages["phase"] == "promoted":
        wrong.append("stages.after_promotion: nobody was asked for after the promotion")
    return wrong


if __name__ == "__main__":
    faults = check(Path(sys.argv[1]))
    print("\n".join(faults) or f"{sys.argv[1]}: ok")
    sys.exit(bool(faults))
