"""Check the summary of a run: `python -m tests.check_summary runs/latest/summary.json`."""

import json
import sys
from pathlib import Path
from typing import Any

from features.collect.database import open_duckdb
from features.collect.stored_rows import Decided
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import Lake
from mtorl.log.touchpoints import DATASET_FILE

REQUIRED = {
    "dataset": (), "rows": (), "users": (), "windows": (), "seconds": (),
    "train": ("seconds", "best_epoch", "looks_ahead", "foresight"),
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
    summary = json.loads(path.read_text())
    wrong = [f"{key} is missing" for key in REQUIRED if key not in summary]
    wrong += [
        f"{key}.{name} is missing" for key, names in REQUIRED.items() for name in names if name not in summary[key]
    ]
    if wrong:
        return wrong
    budgets, serving, shifted = summary["budget"], summary["serving"], summary["monitor"]["shifted"]
    wrong = [f"budget.{arm}.{name} is missing" for arm in budgets for name in BUDGET if name not in budgets[arm]]
    if wrong:
        return wrong
    offline, clean, artifacts = summary["offline"], summary["monitor"]["clean"], summary["artifacts"]
    wrong = [f"offline.{name}_ci is missing" for name in REQUIRED["offline"] if f"{name}_ci" not in offline]
    wrong += [f"artifacts.{k}: {v} is not there" for k, v in artifacts.items() if not (path.parent / v).exists()]
    ended_early = summary["stages"]["phase"] in ("stopped", "rolled back")
    facts = _stages(summary["stages"], summary["experiment"]["verdict"])
    for arm, budget in budgets.items():
        committed, share = budget["spent"] + budget["reserved"], budget["spent_share"]
        facts += [
            (budget["overspent"] == 0, f"budget.{arm}.overspent is {budget['overspent']}"),
            (committed <= budget["limit"] * (1 + 1e-9), f"budget.{arm}: spent + reserved is above the limit: {budget}"),
            (share is None or share >= 0.9 or ended_early, f"budget.{arm}: pacing should spend it all, not {share}"),
            (budget["reserved"] <= 1e-9, f"budget.{arm}: reservations were left open: {budget}"),
        ]
    if summary["next_night"]:
        off = _surprise(path.parent / artifacts["lake"], DatasetSpec.load(path.parent / "data" / DATASET_FILE))
        facts.append((off <= 5, f"the recorded probabilities do not describe the decisions: {off:.1f} standard errors"))
    facts += [
        (serving["errors"] == 0, f"serving.errors is {serving['errors']}"),
        (0 < serving["decisions"] > 2 * serving["fallbacks"], f"no decisions, or most of them fell back: {serving}"),
        (not clean["alarms"] and not clean["not_judged"], f"monitor.clean: {clean['alarms'] or clean['not_judged']}"),
        (shifted["retrain"] and shifted["pages"], "monitor.shifted: no column has moved, or there is no page of it"),
        (summary["experiment"]["verdict"] != "srm", f"sample ratio mismatch: srm_p {summary['experiment']['srm_p']}"),
    ]
    return wrong + [message for holds, message in facts if not holds]


def _stages(stages: dict[str, Any], verdict: str) -> list[tuple[bool, str]]:
    phase, reached = stages["phase"], [move["to"] for move in stages["moves"]]
    in_order = [stage for stage in ("shadow", "1%", "5%", "25%", "50%") if stage in reached]
    a_way = reached[:1] == ["shadow"] and reached[: len(in_order)] == in_order and len(reached) <= len(in_order) + 1
    as_judged = (verdict == "ship") == (phase == "promoted") or reached[-1:] != ["50%"]
    facts = [
        (a_way, f"stages: {reached} is no way through a ramp"),
        (reached[-1:] == [phase], f"stages.phase is {phase}, and the last move went to {reached[-1:]}"),
        (as_judged, f"stages.phase is {phase}, and the verdict {verdict}"),
    ]
    if after := stages["after_promotion"]:
        all_got_it = 0 < after["decisions"] == after["incumbent"] == after["promoted_model"] + after["fallbacks"]
        facts.append((all_got_it, f"after the promotion not everybody got the challenger's model: {after}"))
    else:
        facts.append((phase != "promoted", "stages.after_promotion: nobody was asked for after the promotion"))
    return facts


def _surprise(lake: Path, spec: DatasetSpec) -> float:
    """Return by how many standard errors the run's importance weights differ from their expected value."""
    channels = len(spec.channels)
    here = f"list_position({list(spec.channels)}, drawn_channel)"
    weight = f"if(exposed, 1 / (channel_probs[{here}] * exposure_probs[{here}]), 0)"
    could_be = " + ".join(f"(channel_probs[{i}] * exposure_probs[{i}] > 0)::INT" for i in range(1, channels + 1))
    opened = Lake.open(lake)
    with open_duckdb(opened) as db:
        Decided(db, opened, spec).judge()
        ((off,),) = db.execute(
            f"""SELECT abs(sum(off)) / sqrt(sum(off * off)) FROM (
                SELECT sum({weight} - ({could_be})) AS off FROM judged WHERE left_out IS NULL GROUP BY user_id)"""
        ).fetchall()
    return float(off)


if __name__ == "__main__":
    faults = check(Path(sys.argv[1]))
    print("\n".join(faults) or f"{sys.argv[1]}: ok")
    sys.exit(bool(faults))
