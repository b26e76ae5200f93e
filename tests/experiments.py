from typing import Any


def experiment(endpoint: str, **changes: Any) -> dict[str, Any]:
    """Return an experiment with two arms of equal weight.

    `endpoint` is the URL of the arms that have no URL of their own. `changes` are fields to add or replace.
    """
    if "arms" in changes:
        changes["arms"] = [arm if "policy" in arm else {"endpoint": endpoint, **arm} for arm in changes["arms"]]
    return {
        "name": "test",
        "enabled": True,
        "salt": "s",
        "unit": "user_id",
        "layer": "l",
        "stage": "50%",
        "arms": [{"name": n, "weight": 0.5, "endpoint": endpoint} for n in ("incumbent", "challenger")],
        "default_channel": "search",
        "budgets": [{"campaign": "*", "channel": "*", "amount": 100.0}],
        "metrics": {"primary": "click_per_decision"},
        "alpha": 0.05,
        "min_runtime_hours": 0,
        "owner": "tests",
        **changes,
    }
