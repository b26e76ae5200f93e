"""Evaluates a finished artifact on a log of users that it was not trained on.

    result = evaluate_artifact(artifact, table, yardstick, seed=0, only_new=False)

If propensities must be estimated, they are estimated for each half of the users from the other half.

Shapes: B rows, C channels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mtorl.arrays import Bools, Floats, Ints
from mtorl.artifact.artifact import Artifact, forecast_of
from mtorl.evaluation import messages
from mtorl.evaluation.head_metrics import LoggedTargets, compare
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.policy_value import SELECTED, policy_value, top_share, value_less
from mtorl.log.propensity import channel_means, logged_propensity
from mtorl.log.splits import are_among, folds_of
from mtorl.network.predictor import Predictor, heads_of, predict_each
from mtorl.policy.decision import Forecast, PolicyParams, action_probabilities, utility_scale
from mtorl.policy.price import policy_price
from mtorl.runtime.errors import InputError
from mtorl.window.encoder import labels
from mtorl.window.table import WindowTable


class KnownUsersError(InputError):
    """The artifact was trained on users of the log, so the log can't be used to evaluate it."""


def evaluate_artifact(
    artifact: Artifact, table: WindowTable, yardstick: Predictor | None, seed: int, only_new: bool
) -> dict[str, Any]:
    """Evaluate an artifact's heads and decision rule; compare them with its yardstick and the best constant channel.

    Args:
        table: Touchpoints of a log; its `split` is ignored.
        yardstick: LightGBM model that was trained on the same users.
        only_new: Leave out the artifact's training users instead of rejecting the log.

    Returns:
        ``compared`` (`compare` of "model" and "lightgbm"), ``value`` (`policy_value` by predictor and policy),
        ``spend`` (expected currency units per row) and ``target``: the value of the channel with the highest expected
        gain minus that of the best constant ``channel``.

    Raises:
        KnownUsersError: the log contains training users and `only_new` is not set, or contains no other users.
        InputError: the log's description has other channels or another reward than the artifact.
    """
    for field in ("channels", "reward"):
        trained, described = (spec.model_dump(mode="json")[field] for spec in (artifact.spec, table.spec))
        if trained != described:
            raise InputError(messages.OTHER_DATA_SET(field=field, artifact=trained, log=described))
    users = table.rows["user_id"].unique()
    training_U = are_among(users, artifact.training_users())
    if training_U.all():
        raise KnownUsersError(messages.ALL_KNOWN(users=len(users)))
    if training_U.any() and not only_new:
        known, example = int(training_U.sum()), users[training_U][0]
        raise KnownUsersError(messages.KNOWN_USERS(known=known, users=len(users), example=example))
    new_B = ~table.rows["user_id"].isin(users[training_U]).to_numpy()
    # The artifact's own description lists the columns that the model reads.
    judged = replace(table, spec=artifact.spec, rows=table.rows.assign(split=np.where(new_B, "test", "left out")))
    windows, rows = judged.on_demand("test", targets=True), judged.rows[new_B]
    logged_labels = labels(windows, artifact.encoder)
    users_B, gain_B = rows["user_id"].to_numpy(), artifact.spec.reward.gain.of(rows)
    outputs: dict[str, tuple[np.ndarray[Any, Any], ...]] = {
        "model": tuple(part.astype(np.float64) for part in artifact.outputs(windows))
    }
    if yardstick is not None:
        outputs["lightgbm"] = predict_each(yardstick, windows)
    answers = {name: heads_of(said) for name, said in outputs.items()}
    targets = LoggedTargets(
        logged_labels.channel_B,
        logged_labels.reward_B,
        users_B,
        positive_B=gain_B > 0,
        clone_B=~logged_labels.collected_B,
    )
    predictors: dict[str, tuple[Any, Any]] = {name: (heads[0], heads[1]) for name, heads in answers.items()}
    compared = compare(predictors, "lightgbm" if "lightgbm" in answers else "model", targets, seed)
    gain_of = {name: np.maximum(artifact.encoder.unreward(heads[1], heads[2]), 0.0) for name, heads in answers.items()}
    log = LoggedRows(logged_labels.channel_B, _propensity(judged, new_B), gain_B, logged_labels.cost_B, users_B)
    value, spend, greedy = dict[str, Any](), dict[str, float](), dict[str, PolicyOnLog]()
    for name, said in outputs.items():
        gain_BC, forecast = gain_of[name], forecast_of(said, artifact.encoder)
        params = _at_spend(spend["model"], forecast, artifact.policy) if spend else artifact.policy
        probs_BC, expose_BC = action_probabilities(forecast, params)
        spend[name] = float((probs_BC * expose_BC * np.asarray(forecast.cost_BC)).sum(axis=1).mean())
        rule, always = PolicyOnLog(probs_BC, expose_BC), PolicyOnLog.always_exposing(probs_BC)
        greedy[name] = best = PolicyOnLog.always_exposing(np.eye(gain_BC.shape[1])[gain_BC.argmax(axis=1)])
        selected_B = top_share((probs_BC * gain_BC).sum(axis=1), SELECTED, seed)
        value[f"{name}: decision rule"] = policy_value(rule, log, seed, gain_BC)
        value[f"{name}: its channels, always exposing"] = policy_value(always, log, seed, gain_BC)
        value[f"{name}: its channels, at 37.5 % exposure"] = policy_value(always, log, seed, gain_BC, selected_B)
        value[f"{name}: best expected gain, at 37.5 % exposure"] = policy_value(best, log, seed, gain_BC, selected_B)
        value[f"{name}: best expected gain, always exposing"] = policy_value(best, log, seed, gain_BC)
    target: dict[str, Any] = {"channel": None}
    if (best_B := _best_constant(judged, new_B)) is not None:
        constant, gain_BC = PolicyOnLog.always_exposing(np.eye(gain_of["model"].shape[1])[best_B]), gain_of["model"]
        value["best constant channel, always exposing"] = found = policy_value(constant, log, seed, gain_BC)
        target = {
            "channel": ", ".join(artifact.spec.channels[channel] for channel in np.unique(best_B)),
            "constant": found["estimates"]["dr"]["value"],
            **value_less(greedy["model"], constant, log, seed, gain_BC),
        }
    return {
        "artifact": {name: artifact.model[name] for name in ("name", "kind", "digest", "data_fingerprint")}
        | {name: artifact.metrics.get(name) for name in ("looks_ahead", "foresight")},
        "data": {
            "fingerprint": table.fingerprint,
            "rows": len(rows),
            "users": int(len(users) - training_U.sum()),
            "left_out_users": int(training_U.sum()),
            "share": table.share,
        },
        "compared": compared,
        "value": value,
        "spend": spend,
        "target": target,
    }


def _at_spend(spend: float, forecast: Forecast, params: PolicyParams) -> PolicyParams:
    """Return `params` with the price at which the policy is expected to spend `spend` per row."""
    scaled = replace(params, utility_scale=utility_scale(forecast))
    return replace(scaled, price=policy_price(forecast, scaled, max(spend, np.finfo(np.float64).tiny)))


def _best_constant(table: WindowTable, wanted_B: Bools) -> Ints | None:
    """Return, for each row, the channel with the highest mean gain among the other half of the users, or None."""
    spec, half_B = table.spec, folds_of(table.rows["user_id"], 2)
    best_B = np.zeros(len(half_B), dtype=np.int64)
    for half in (0, 1):
        others = table.rows[half_B != half].assign(split="train")
        mean_C = channel_means(others, spec, spec.reward.gain.of(others))
        if mean_C is None:
            return None
        best_B[half_B == half] = mean_C.argmax()
    return best_B[wanted_B]


def _propensity(table: WindowTable, wanted_B: Bools) -> Floats:
    half_B = folds_of(table.rows["user_id"], 2)
    propensity_B: Floats = np.empty(len(half_B))
    for half in (0, 1):
        split_B = np.where(half_B == half, "test", "train")
        propensity_B[half_B == half] = logged_propensity(table.rows.assign(split=split_B), table.spec)[half_B == half]
    wanted: Floats = propensity_B[wanted_B]
    return wanted
