"""Evaluates the challenger and the incumbent on the logged data of test users, as the basis for the gate's decision.

If the incumbent has no artifact, both policies are evaluated only at its own decisions (`logged_incumbent.py`).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from mtorl.arrays import Bools, Floats, Ints
from mtorl.artifact import artifact
from mtorl.evaluation.expected_outcomes import ExpectedOutcomes, Fit, second_opinion
from mtorl.evaluation.head_metrics import LoggedTargets, evaluate
from mtorl.evaluation.logged_incumbent import LoggedIncumbent
from mtorl.evaluation.logged_rows import Exposure, LoggedRows, PolicyOnLog
from mtorl.evaluation.value_difference import value_difference
from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec
from mtorl.log.opportunities import Opportunities
from mtorl.log.propensity import logged_propensity
from mtorl.network.predictor import predict_each
from mtorl.policy.decision import Forecast, PolicyParams, action_probabilities
from mtorl.policy.price import policy_price
from mtorl.runtime import progress
from mtorl.window.on_demand import Windows, from_texts
from mtorl.window.table import MOST_HELD_OUT, WindowTable

# A channel counts as lost if its share in the predictions is less than half of its share in the log.
LEAST_EXPECTED = 0.5
FEWEST_TOUCHPOINTS = 100


def evaluate_offline(
    windows: str, challenger: str, incumbent: str, budget_share: float, seed: int, fit: Fit | None = None
) -> dict[str, Any]:
    """Evaluate the predictions and the value of the challenger and the incumbent on all test users.

    Args:
        incumbent: Artifact folder, or a folder written by `LoggedIncumbent.write`.
        budget_share: Budget of both policies, as a fraction of the cost of always exposing. An incumbent without an
            artifact sets the budget by its own spend.
        fit: `lightgbm.fit_outcomes`, which trains a second model for rare exposures; None uses only logged exposures.

    Returns:
        ``challenger`` and ``incumbent``: metrics of the heads (null without an artifact). ``valued_on``:
        "opportunities", "incumbent_decisions" or "touchpoints". ``incumbent_is``: "own_model" or "external".
        ``lost_channel`` and ``overexposed_channel``: a faulty channel, or null.

    Raises:
        WindowError: there are no test users, or too little is known about an incumbent without an artifact.
    """
    table = WindowTable.load(windows, "test", most=MOST_HELD_OUT)
    spec, rows, tested = table.spec, table.rows, table.on_demand("test")
    if not len(rows):
        raise WindowError("no test windows: the log has too few users")
    without_artifact = LoggedIncumbent.named_in(incumbent)
    own = without_artifact and without_artifact.decisions(windows, spec)
    opportunities = own or Opportunities.load(windows, spec, "test")
    channel_B = pd.Index(spec.channels).get_indexer(pd.Index(rows["channel"]))
    gain_B, cost_B = spec.reward.gain.of(rows), rows["cost"].to_numpy(float)
    users_B = rows["user_id"].to_numpy()
    if not opportunities.enough:
        known_B = _propensity_is_known(rows, spec)
        moments: Windows = tested.only(np.flatnonzero(known_B))
        propensity_B = _propensity(windows, rows[known_B], spec)
        log = LoggedRows(channel_B[known_B], propensity_B, gain_B[known_B], cost_B[known_B], users_B[known_B])
    else:
        moments, log = from_texts(opportunities.windows, spec), _decisions(opportunities, spec)
    heads, forecasts, clone_B = {}, {}, ~rows["collected"].to_numpy()
    folders = {"challenger": challenger} if own else {"incumbent": incumbent, "challenger": challenger}
    arms = {name: artifact.load(Path(folder)) for name, folder in folders.items()}
    for turn, (name, arm) in enumerate(arms.items()):
        logits_BC, reward_BC, _ = predict_each(arm, tested)
        label_B = arm.encoder.reward(gain_B, cost_B)
        targets = LoggedTargets(channel_B, label_B, users_B, positive_B=gain_B > 0, clone_B=clone_B)
        heads[name] = evaluate(logits_BC, reward_BC, targets, seed)
        forecasts[name] = arm.forecast(moments)
        progress.report(turn + 1, 4, name)
    lost = lost_channel(logits_BC[clone_B], channel_B[clone_B])  # the challenger is the last arm
    wrong = log.overexposed_channel()
    opinions = [_outcomes(forecasts["challenger"])]
    if fit is not None and log.exposure is not None:
        second = second_opinion(windows, moments, log.users_B, arms["challenger"].encoder, fit, seed)
        opinions += [second] if second is not None else []
    progress.report(3, 4, "second opinion")
    full = float(np.asarray(forecasts["challenger"].cost_BC)[log.at_channel].mean())  # cost of always exposing
    budget = float(log.cost_B.mean()) if own else budget_share * full
    paced = {name: paced_to(forecast, arms[name].policy, budget) for name, forecast in forecasts.items()}
    policies = {name: PolicyOnLog(*action_probabilities(forecast, paced[name])) for name, forecast in forecasts.items()}
    if own:
        policies["incumbent"] = PolicyOnLog(own.channel_probs_BC, own.exposure_probs_BC)
    share = None if own else budget_share
    value = value_difference(policies["challenger"], policies["incumbent"], log, share, seed, opinions)
    progress.report(4, 4, "off-policy value")
    is_ours = not own and arms["incumbent"].model["kind"] == "mtorl"
    return {
        "challenger": heads["challenger"],
        "incumbent": heads.get("incumbent"),
        "value": value,
        "lost_channel": lost and {"channel": spec.channels[lost[0]], "expected": lost[1], "logged": lost[2]},
        "overexposed_channel": wrong and {"channel": spec.channels[wrong[0]], "count": wrong[1], "expected": wrong[2]},
        "valued_on": "incumbent_decisions" if own else "opportunities" if opportunities.enough else "touchpoints",
        "own_decisions": len(opportunities),
        "incumbent_is": "own_model" if is_ours else "external",
        "prices": {name: policy.price for name, policy in paced.items()},
        "test_rows": len(rows),
        "test_users": int(rows["user_id"].nunique()),
        "test_share": table.share,
    }


def lost_channel(logits_BC: Floats, channel_B: Ints) -> tuple[int, float, float] | None:
    """Find a channel that is frequent in the log but rare in the model's predictions.

    Returns the channel's index, its share in the predictions, and its share in the log, or None.
    """
    rows, channels = logits_BC.shape
    logged_C = np.bincount(channel_B, minlength=channels)
    expected_C = softmax(logits_BC.astype(np.float64), axis=1).sum(axis=0)
    lost_C = np.flatnonzero((logged_C >= FEWEST_TOUCHPOINTS) & (expected_C < LEAST_EXPECTED * logged_C))
    return (int(lost_C[0]), expected_C[lost_C[0]] / rows, logged_C[lost_C[0]] / rows) if len(lost_C) else None


def _outcomes(forecast: Forecast) -> ExpectedOutcomes:
    return ExpectedOutcomes(np.maximum(np.asarray(forecast.gain_BC), 0.0), np.asarray(forecast.cost_BC))


def paced_to(forecast: Forecast, params: PolicyParams, budget: float) -> PolicyParams:
    """Return the policy's parameters with the price at which it spends `budget` currency units per row.

    The artifact's price comes from older data, and would make the policy look worse than it is.
    """
    if not np.asarray(forecast.cost_BC).any() or budget <= 0:
        return params
    return replace(params, price=policy_price(forecast, params, budget))


def _propensity(windows: str, rows: pd.DataFrame, spec: DatasetSpec) -> Floats:
    """Return the propensity of each test row, estimated from training users if the log has none."""
    if spec.propensity == "logged":
        return logged_propensity(rows, spec)
    trained = WindowTable.load(windows, "train", most=MOST_HELD_OUT).rows
    return logged_propensity(pd.concat([trained, rows], ignore_index=True), spec)[len(trained) :]


def _propensity_is_known(rows: pd.DataFrame, spec: DatasetSpec) -> Bools:
    """Return a mask of the rows whose propensity is known, or raise a WindowError if there are none."""
    known = rows["propensity"].notna().to_numpy() if spec.propensity == "logged" else np.ones(len(rows), dtype=np.bool_)
    if not known.any():
        raise WindowError("no test user has a touchpoint whose propensity is known: this log can't value a policy")
    return np.asarray(known)


def _decisions(found: Opportunities, spec: DatasetSpec) -> LoggedRows:
    at = np.arange(len(found)), found.channel_B
    probs_BC = found.channel_probs_BC * found.exposure_probs_BC
    exposure = Exposure(found.exposed_B, found.exposure_probs_BC[at], probs_BC)
    gain_B, cost_B = spec.reward.gain.of(found.rows), found.rows["cost"].to_numpy(float)
    return LoggedRows(found.channel_B, found.propensity_B, gain_B, cost_B, found.rows["user_id"].to_numpy(), exposure)
