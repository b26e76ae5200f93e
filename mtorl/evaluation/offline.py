"""Offline evaluation of both policies on test users, and the gate that a challenger must pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mtorl.artifact import artifact
from mtorl.evaluation.budget_curve import GainAndCost, budget_curve
from mtorl.evaluation.gate import gate, value_difference
from mtorl.evaluation.head_metrics import LoggedTargets, evaluate
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.resamples import UserResamples
from mtorl.log.columns import WindowError
from mtorl.log.propensity import logged_propensity
from mtorl.policy.decision import Forecast, action_probabilities
from mtorl.runtime import progress
from mtorl.window.table import WindowTable


def evaluate_offline(windows: str, challenger: str, incumbent: str, budget_share: float, seed: int) -> dict[str, Any]:
    """Score both policies on every step of every test journey.

    Args:
        windows: Windows folder.
        challenger: Artifact folder.
        incumbent: Artifact folder.
        budget_share: Budget that both policies get, as a share of what always exposing would cost.
        seed: Seed of the bootstrap.

    Returns:
        ``challenger`` and ``incumbent`` (metrics of the heads), ``value`` (off-policy estimate at equal budget),
        ``budget_curve``, ``test_rows``, ``test_users``.

    Raises:
        WindowError: no user is held out for the test.
    """
    table = WindowTable.load(windows)
    spec, batch, test = table.spec, table.windows("test"), table.is_in("test")
    rows = table.rows[test]
    if not len(rows):
        raise WindowError("no test windows: the log has too few users")
    propensity_B = logged_propensity(table.rows, spec)[test]
    channel_B = np.array([spec.channels.index(name) for name in rows["channel"]])
    gain_B, cost_B = rows[spec.reward.gain].to_numpy(float), rows["cost"].to_numpy(float)
    users_B = rows["user_id"].to_numpy()
    logged = np.arange(len(rows)), channel_B
    heads, policies, predicted = {}, {}, {}
    for turn, (name, folder) in enumerate((("incumbent", incumbent), ("challenger", challenger))):
        arm = artifact.load(Path(folder))
        logits_BC, reward_BC, cost_BC = arm.predict(batch)
        label_B = arm.encoder.reward(gain_B, cost_B)
        heads[name] = evaluate(
            logits_BC, reward_BC, LoggedTargets(channel_B, label_B, users_B, positive_B=gain_B > 0), seed
        )
        gain_BC = arm.encoder.unreward(reward_BC, cost_BC)
        policies[name] = PolicyOnLog(*action_probabilities(Forecast(logits_BC, gain_BC, cost_BC), arm.policy))
        predicted[name] = GainAndCost(gain_BC[logged], cost_BC[logged])
        progress.report(turn + 1, 3, name)
    log = LoggedRows(channel_B, propensity_B, gain_B, cost_B, users_B)
    value = value_difference(policies["challenger"], policies["incumbent"], log, budget_share, seed)
    resamples = UserResamples(users_B, 200, seed)
    curve = budget_curve(predicted["challenger"], GainAndCost(gain_B, cost_B), seed=seed, users=resamples)
    progress.report(3, 3, "off-policy value")
    return {
        "challenger": heads["challenger"],
        "incumbent": heads["incumbent"],
        "value": value,
        "budget_curve": curve,
        "test_rows": len(rows),
        "test_users": int(rows["user_id"].nunique()),
    }


def gate_from_file(path: str, min_lift: float) -> str:
    """Decide on an evaluation written by `evaluate_offline`; returns "promote" or "reject"."""
    return gate(json.loads(Path(path).read_text())["value"], min_lift)[0]
