"""A run directory as the loop leaves it, made up, for the tests of the report and for looking at the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.monitoring.experiments.made_views import verdict

PAGE = Path("monitor/periods/2026-11-28T00/drift.html")
RULES = {"mtorl": 0.55, "predicted_gain": 0.72, "cheapest": 0.8, "random": 1.0, "oracle": 0.3}
CHANNELS = ("search", "social", "display", "video")


def write(run: Path) -> Path:
    """Fill a run directory; returns it."""
    rng = np.random.default_rng(4)
    _touchpoints(rng).to_parquet(_made(run / "data") / "touchpoints.parquet", index=False)
    history = [{"epoch": e, "train_loss": 1.9 + 0.7**e, "val_loss": 1.95 + 0.72**e} for e in range(1, 13)]
    metrics = {"history": history, "members": [{"best_epoch": 9}, {"best_epoch": 7}]}
    (_made(run / "artifacts" / "challenger") / "metrics.json").write_text(json.dumps(metrics))
    (run / "summary.json").write_text(json.dumps(summary()))
    (_made(run / PAGE.parent) / PAGE.name).write_text("<html>drift</html>")
    return run


def summary() -> dict[str, Any]:
    """summary.json of a run in which everything was measured."""
    return {
        "schema_version": 1,
        "dataset": "simulator",
        "source": "built-in simulator",
        "outcomes": "simulated",
        "rows": 71_934,
        "users": 6_000,
        "windows": 71_934,
        "train": {"seconds": 83.2, "best_epoch": 9, "epochs": 12},
        "offline": _offline(0.0),
        "offline_incumbent": _offline(-0.07),
        "budget_curve": [
            {"share": share} | {rule: share**power for rule, power in RULES.items()}
            for share in (n / 20 for n in range(21))
        ],
        "gate": {
            "decision": "promote",
            "reason": "lower bound +0.0089 is above the required lift of +0.0000",
            "lower_bound": 0.0089,
            "challenger": 0.0912,
            "challenger_ci": [0.0851, 0.0975],
            "incumbent": 0.0741,
            "incumbent_ci": [0.0712, 0.0770],
            "difference": 0.0171,
            "difference_ci": [0.0089, 0.0254],
            "ess": {"challenger": 5210.4, "incumbent": 13_020.0},
            "ess_share": {"challenger": 0.362, "incumbent": 0.905},
            "overlap": {"challenger": 0.58, "incumbent": 0.91},
            "mean_weight": {"challenger": 1.01, "incumbent": 1.0},
        },
        "serving": {
            "decisions": 5_985,
            "opportunities": 8_000,
            "errors": 0,
            "refused": 0,
            "fallbacks": 3,
            "p50_ms": 11.4,
            "p99_ms": 38.2,
        },
        "budget": {
            "incumbent": {"limit": 842.5, "spent": 842.11, "reserved": 0.0, "overspent": 0.0, "spent_share": 0.9995},
            "challenger": {"limit": 842.5, "spent": 611.9, "reserved": 4.2, "overspent": 0.0, "spent_share": 0.726},
        },
        "experiment": {
            **verdict("inconclusive", "the interval contains zero", {"incumbent": 602, "challenger": 595}, 0.0214),
            "stages": ["50%"],
            "lift_ci_fixed": [0.0034, 0.0394],
            "true_lift": 0.0236,
        },
        "stages": {
            "phase": "50%",
            "waits": ["the last stage: the interval contains zero"],
            "moves": [
                {"to": "shadow", "at": "2026-11-28T09:00:00+00:00", "by": "person", "reason": "it begins", "users": {}},
                {"to": "50%", "at": "2026-11-28T10:00:00+00:00", "by": "ramp", "reason": "<b>fine</b>", "users": {}},
            ],
            "after_promotion": None,
        },
        "monitor": {"state": "monitor", "clean": _found(0.35), "shifted": _found(4.0, [str(PAGE)])},
        "artifacts": {
            "incumbent": "artifacts/incumbent",
            "challenger": "artifacts/challenger",
            "report": "report.html",
        },
        "seconds": 252.4,
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


def _touchpoints(rng: np.random.Generator) -> pd.DataFrame:
    length = 2 + rng.negative_binomial(2, 0.17, 900)
    of = np.repeat(np.arange(900), length)
    rows = len(of)
    return pd.DataFrame(
        {
            "user_id": [f"u{i}" for i in of],
            "timestamp": pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(rng.uniform(0, 21, rows), unit="D"),
            "channel": rng.choice(CHANNELS, rows, p=[0.38, 0.27, 0.22, 0.13]),
            "cost": rng.gamma(3, 0.11, rows),
            "click": rng.binomial(1, 0.083, rows),
            "conversion": rng.binomial(1, 0.011, rows),
        }
    )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    import sys

    from monitoring.report import render

    print(render(write(Path(sys.argv[1]))))
