"""Computes all metrics of a comparison from the methods' predictions for the test rows of a task.

Shapes: B test rows, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit

from mtorl.arrays import Floats, Ints
from mtorl.comparison.budget_curve import GainAndCost, budget_curve
from mtorl.comparison.methods import NO_REWARD, OURS, YARDSTICK
from mtorl.comparison.task import Task
from mtorl.evaluation.head_metrics import LoggedTargets, calibration_error, compare, top_label
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.policy_value import SELECTED, policy_value, top_share, value_less
from mtorl.evaluation.resamples import UserResamples
from mtorl.fitting.fit import price_policy
from mtorl.log.propensity import channel_means, logged_propensity
from mtorl.network.predictor import Heads
from mtorl.policy.decision import Forecast, action_probabilities
from mtorl.window.encoder import labels

_VALUED = (YARDSTICK, OURS)  # only these methods get budget curves and policy values
_GREEDY, _CONSTANT = "best expected gain", "best constant channel"
_RESAMPLES = 200
_DRAWS = 200
_TINY = 1e-6


def score(task: Task, answers: Mapping[str, Heads], seed: int) -> dict[str, Any]:
    """Return all results that the report shows for a task.

    Args:
        answers: Predictions for the test rows, by method.

    Returns:
        Results by name. ``budget`` is empty if all exposures cost the same.
    """
    rows, spec = task.test.rows, task.spec
    logged = labels(task.test.windows, task.encoder)
    users_B, gain_B = rows["user_id"].to_numpy(), spec.reward.gain.of(rows)
    targets = LoggedTargets(logged.channel_B, logged.reward_B, users_B, positive_B=gain_B > 0)
    predictors = {name: (heads[0], None if name in NO_REWARD else heads[1]) for name, heads in answers.items()}
    compared = compare(predictors, YARDSTICK, targets, seed, _RESAMPLES)
    at_logged = np.arange(len(rows)), logged.channel_B
    curves, values = {}, {}
    propensity_B = logged_propensity(task.table.rows, spec)[task.table.is_in("test")]
    rows_of_log = LoggedRows(logged.channel_B, propensity_B, gain_B, logged.cost_B, users_B)
    known = task.table.rows[~task.table.is_in("test")]
    mean_C = channel_means(known, spec, spec.reward.gain.of(known))
    logged_values, users = GainAndCost(gain_B, logged.cost_B), UserResamples(users_B, _RESAMPLES, seed)
    predicted = {}
    for name in _VALUED:
        logits_BC, reward_BC, cost_BC = (np.asarray(part, dtype=np.float64) for part in answers[name])
        gain_BC = np.maximum(task.encoder.unreward(reward_BC, cost_BC), 0.0)
        predicted[name] = GainAndCost(gain_BC[at_logged], cost_BC[at_logged])
        if logged.cost_B.min() < logged.cost_B.max():
            rival = predicted.get(YARDSTICK)
            curves[name] = budget_curve(predicted[name], logged_values, seed=seed, users=users, rival=rival)
        policies = _policies(logits_BC, gain_BC, cost_BC, gain_BC.mean(axis=0) if mean_C is None else mean_C)
        for policy, probs_BC in policies.items():
            selected_B = top_share((probs_BC * gain_BC).sum(axis=1), SELECTED, seed)
            always = PolicyOnLog.always_exposing(probs_BC)
            values[f"{name}: {policy}"] = policy_value(always, rows_of_log, seed, gain_BC, selected_B)
    return {
        "compared": compared,
        "budget": curves,
        "value": values,
        # `policies` and `gain_BC` belong to OURS, the last method in the loop.
        "target": _against_constant(policies, mean_C, spec.channels, rows_of_log, seed, gain_BC),
        "calibration_noise": calibration_noise(answers[OURS], logged.channel_B, logged.reward_B, seed),
        "rows": len(rows),
        "users": len(np.unique(users_B)),
    }


def _against_constant(
    policies: Mapping[str, Floats],
    mean_C: Floats | None,
    channels: Sequence[str],
    log: LoggedRows,
    seed: int,
    gain_BC: Floats,
) -> dict[str, Any]:
    """Compare the value of MTORL's greedy policy with the value of the best constant channel."""
    if mean_C is None:
        return {"channel": None}
    greedy, constant = (PolicyOnLog.always_exposing(policies[name]) for name in (_GREEDY, _CONSTANT))
    worth = policy_value(constant, log, seed, gain_BC, resamples=_RESAMPLES)["estimates"]["dr"]["value"]
    difference = value_less(greedy, constant, log, seed, gain_BC)
    return {"channel": channels[int(mean_C.argmax())], "constant": worth, **difference}


def _policies(logits_BC: Floats, gain_BC: Floats, cost_BC: Floats, mean_C: Floats) -> dict[str, Floats]:
    rows, channels = gain_BC.shape
    forecast = Forecast(logits_BC, gain_BC, cost_BC)
    params = price_policy(forecast, float(cost_BC.max()))
    return {
        "its decision rule": action_probabilities(forecast, params)[0],
        _GREEDY: np.eye(channels)[gain_BC.argmax(axis=1)],
        "most likely channel": np.eye(channels)[logits_BC.argmax(axis=1)],
        _CONSTANT: np.eye(channels)[np.full(rows, mean_C.argmax())],
    }


def calibration_noise(heads: Heads, channel_B: Ints, target_B: Floats, seed: int) -> dict[str, Any]:
    """Return the calibration errors that MTORL would have by chance if it were perfectly calibrated.

    The simulation treats the labels of a user as independent, so it underestimates these errors.

    Returns:
        For ``action_ece`` and ``reward_ece``, the mean error ``noise`` and the 97.5 % quantile ``noise_high``. For
        ``reward_ece``, also MTORL's error after removing its mean error, ``less_shift``.
    """
    confidence_B, _ = top_label(heads[0], channel_B)
    reward_B = np.clip(np.asarray(heads[1], dtype=np.float64)[np.arange(len(channel_B)), channel_B], _TINY, 1 - _TINY)
    level = logit(reward_B)

    def gap(shift: float) -> float:
        return float(expit(level + shift).mean() - target_B.mean())

    # Without both labels 0 and 1, the shift would be infinite.
    shift = brentq(gap, -20.0, 20.0) if 0 < target_B.mean() < 1 else 0.0
    return {
        "action_ece": _noise(confidence_B, seed),
        "reward_ece": {**_noise(reward_B, seed), "less_shift": calibration_error(expit(level + shift), target_B)},
    }


def _noise(probability_B: ArrayLike, seed: int) -> dict[str, float]:
    probability = np.asarray(probability_B, dtype=np.float64)
    random = np.random.default_rng(seed)
    error_R = [calibration_error(probability, random.random(len(probability)) < probability) for _ in range(_DRAWS)]
    return {"noise": float(np.mean(error_R)), "noise_high": float(np.quantile(error_R, 0.975))}
