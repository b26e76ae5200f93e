"""Creates routers in this process, whose arms are fixed rules, so that no model server is needed."""

import random
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.scale_runs.batch import definition
from benchmarks.scale_runs.made_lake import CHANNELS, SPEC
from serving.router.flow.features import UserFeatures
from serving.router.flow.requests import DecisionRequest
from serving.router.router import Router

CAP = 0.05  # highest possible cost of an exposure
CAMPAIGNS = 20
WINDOW_SHARE = 0.05


class MadeFeatures:
    """Replaces the feature store: every user has random touchpoints."""

    def read(self, requests: Sequence[DecisionRequest]) -> list[UserFeatures]:
        """Return random features for each request."""
        return [UserFeatures(_history(request), {"age_group": "30-39"}, has_history=True) for request in requests]


def _history(request: DecisionRequest) -> dict[str, Any]:
    made = _touchpoints(zlib.crc32(request.user_id.encode()) % 1_000)
    times = [float(request.at - (SPEC.window - i) * 7_200_000_417) for i in range(SPEC.window)]
    return {**made, "hist_timestamp": times}


@cache
def _touchpoints(number: int) -> dict[str, Any]:
    """Return random touchpoints without times. The cache saves a fifth of the time of a decision."""
    chance, steps = random.Random(number), range(SPEC.window)
    made = {
        "channel": [chance.choice(CHANNELS) for _ in steps],
        "cost": [round(chance.uniform(0.01, CAP), 4) for _ in steps],
        "click": [int(chance.random() < 0.05) for _ in steps],
        "conversion": [0 for _ in steps],
        "revenue": [0.0 for _ in steps],
        "hour": [float(chance.randrange(24)) for _ in steps],
        "device": [chance.choice(("phone", "tv")) for _ in steps],
    }
    return {f"hist_{name}": values for name, values in made.items()}


def router(folder: Path, ledger: str, lake: str, budget: float, **settings: Any) -> Router:
    """Create a router with its settings and spool in a folder, and one experiment, `scale`.

    `budget` is the budget of each campaign.
    """
    import yaml

    from serving.router.ops.settings import RouterSettings

    folder.mkdir(parents=True, exist_ok=True)
    SPEC.save(folder / "dataset.yaml")
    budgets = [{"campaign": f"c{i}", "channel": "*", "amount": budget} for i in range(CAMPAIGNS)]
    (folder / "experiment.yaml").write_text(yaml.safe_dump(definition("scale", budgets=budgets)))
    files = {"experiment": "experiment.yaml", "dataset": "dataset.yaml", "feature_repo": "features", "spool": "spool"}
    usual = {"port": 0, "auth": {"kind": "none"}, "deadline_ms": 5_000, "window_share": WINDOW_SHARE}
    own = {"ledger": ledger, "lake": lake, "cost_cap": dict.fromkeys(CHANNELS, CAP), **settings}
    (folder / "router.yaml").write_text(yaml.safe_dump({**files, **usual, **own}))
    return Router(RouterSettings.load(folder / "router.yaml"), MadeFeatures())


def outcome(decision_id: str, kind: str, value: float) -> dict[str, Any]:
    event = {"event_id": f"{kind}-{decision_id}", "decision_id": decision_id, "kind": kind, "value": value}
    return {**event, "event_time": datetime.now(UTC).isoformat()}


def instances(numbers: Sequence[int], chance: random.Random, users: int) -> list[dict[str, Any]]:
    """Return an instance of a decision request for each number, with different request ids."""
    return [
        {
            "user_id": f"u{chance.randrange(users)}",
            "campaign_id": f"c{chance.randrange(CAMPAIGNS)}",
            "context": {"hour": 9.0, "device": "phone"},
            "request_id": f"request-{number}",
        }
        for number in numbers
    ]
