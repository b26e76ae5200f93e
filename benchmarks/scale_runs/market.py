"""Routers of this process without models: arms are rules, and no user has features."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale_runs.batch import definition
from benchmarks.scale_runs.made_lake import CHANNELS, SPEC
from serving.router.flow.features import UserFeatures
from serving.router.flow.requests import DecisionRequest
from serving.router.router import Router

CAP = 0.05  # highest cost of an exposure
CAMPAIGNS = 20


class NoFeatures:
    """A feature store without users."""

    def read(self, requests: Sequence[DecisionRequest]) -> list[UserFeatures]:
        """No history for each."""
        return [UserFeatures({}, {"age_group": None}, has_history=False) for _ in requests]


def router(folder: Path, ledger: str, lake: str, budget: float, **settings: Any) -> Router:
    """A router with its spool in a folder; `budget` is each campaign's, of the experiment `scale`."""
    import yaml

    from serving.router.ops.settings import RouterSettings

    folder.mkdir(parents=True, exist_ok=True)
    SPEC.save(folder / "dataset.yaml")
    budgets = [{"campaign": f"c{i}", "channel": "*", "amount": budget} for i in range(CAMPAIGNS)]
    (folder / "experiment.yaml").write_text(yaml.safe_dump(definition("scale", budgets=budgets)))
    content = {
        "port": 0,
        "experiment": "experiment.yaml",
        "dataset": "dataset.yaml",
        "feature_repo": "features",
        "ledger": ledger,
        "spool": "spool",
        "lake": lake,
        "cost_cap": dict.fromkeys(CHANNELS, CAP),
        "auth": {"kind": "none"},
        "deadline_ms": 5_000,
        "window_share": 0.05,
        **settings,
    }
    (folder / "router.yaml").write_text(yaml.safe_dump(content))
    return Router(RouterSettings.load(folder / "router.yaml"), NoFeatures())


def instances(numbers: Sequence[int], chance: random.Random, users: int) -> list[dict[str, Any]]:
    """A request for decisions with ids of their own."""
    return [
        {
            "user_id": f"u{chance.randrange(users)}",
            "campaign_id": f"c{chance.randrange(CAMPAIGNS)}",
            "context": {"hour": 9.0, "device": "phone"},
            "request_id": f"request-{number}",
        }
        for number in numbers
    ]
