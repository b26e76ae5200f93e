import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtorl.simulator.simulator import Simulator, SimulatorConfig
from tests.monitoring.experiments.made_views import verdict

PAGE = Path("monitor/periods/2026-11-28T00/drift.html")
ARMS = ("incumbent", "challenger")


def write(run: Path) -> Path:
    for folder in ("data", "artifacts/challenger", PAGE.parent):
        (run / folder).mkdir(parents=True)
    Simulator(SimulatorConfig(users=200)).log().to_parquet(run / "data" / "touchpoints.parquet", index=False)
    history = [{"epoch": e, "train_loss": 1.9 + 0.7**e, "val_loss": 1.95 + 0.72**e} for e in range(1, 13)]
    metrics = {"history": history, "members": [{"best_epoch": 9}, {"best_epoch": 7}]}
    (run / "artifacts" / "challenger" / "metrics.json").write_text(json.dumps(metrics))
    (run / "summary.json").write_text(json.dumps(summary()))
    (run / PAGE).write_text("<html>drift</html>")
    return run


def summary() -> dict[str, Any]:
    return {
        "dataset": "simulator",
        "source": "built-in simulator",
        "outcomes": "simulated",
        "rows": 71_934,
        "users": 6_000,
        "windows": 71_934,
        "train": {"seconds": 83.2, "best_epoch": 9, "epochs": 12},
        "offline": _offline(0.0),
        "offline_incumbent": _offline(-0.07),
        "gate": {
            "decision": "promote",
            "reason": "lower bound +0.0089 is above the required lift of +0.0000",
            "lower_bound": 0.0089,
            "min_lift": 0.0,
            "margin": None,
            **{name: 0.0741 for name in (*ARMS, "difference")},
            **{f"{name}_ci": [0.0712, 0.0770] for name in (*ARMS, "difference")},
            **{name: dict.fromkeys(ARMS, 0.9) for name in ("ess", "ess_share", "overlap", "mean_weight")},
        },
        "serving": {"p50_ms": 11.4, "p99_ms": 38.2, "decisions": 5_985, "opportunities": 8_000}
        | dict.fromkeys(("errors", "refused", "fallbacks"), 3),
        "budget": {
            arm: {"limit": 842.5, "spent": 611.9, "reserved": 4.2, "overspent": 0.0, "spent_share": 0.726}
            for arm in ARMS
        },
        "experiment": {
            **verdict("inconclusive", "the interval contains zero", {"incumbent": 602, "challenger": 595}, 0.0214),
            "stages": ["50%"],
            "lift_ci_fixed": [0.0034, 0.0394],
            "true_lift": 0.0236,
        },
        "stages": {
            "phase": "50%",
            "waits": ["the interval contains zero"],
            "moves": [
                {"to": "shadow", "at": "2026-11-28T09:00:00+00:00", "by": "person", "reason": "it begins", "users": {}},
                {"to": "50%", "at": "2026-11-28T10:00:00+00:00", "by": "ramp", "reason": "<b>fine</b>", "users": {}},
            ],
            "after_promotion": None,
        },
        "monitor": {"state": "monitor", "clean": _found(0.35), "shifted": _found(4.0, [str(PAGE)])},
        "artifacts": {"challenger": "artifacts/challenger"},
    }


def _offline(shift: float) -> dict[str, Any]:
    values = {"action_accuracy": 0.512, "action_auc": 0.741, "reward_auc": 0.702, "reward_logloss": 0.2493}
    found: dict[str, Any] = {}
    for name, value in values.items():
        value += -shift if name.endswith("loss") else shift
        found |= {name: value, f"{name}_ci": [value - 0.011, value + 0.0123]}
    return found


def _found(size: float, pages: Sequence[str] = ()) -> dict[str, Any]:
    columns, alarms = [], []
    for name, factor in (("hour", 0.9), ("device", 1.0), ("placement", 0.6), ("tenure_days", 0.1)):
        columns.append({"column": name, "score": 0.07 * size * factor, "threshold": 0.07})
        if size * factor >= 1:
            alarms.append({"stream": f"context/{name}", "kind": "drift", "since": "2026-11-26", "text": name})
    return {
        "word": "moved" if alarms else "fine",
        "until": "2026-11-28T00:00:00+00:00",
        "decisions": 5_985,
        "users": 1_197,
        "not_judged": None,
        "columns": columns,
        "alarms": alarms,
        "retrain": alarms[0]["text"] if alarms else None,
        "pages": pages,
    }
