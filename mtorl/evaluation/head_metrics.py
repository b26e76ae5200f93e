"""Computes metrics of the action head and the reward head, with intervals, on users who were not in the training.

    targets = LoggedTargets(channel_B, reward_B, users_B)
    evaluate(logits_BC, reward_BC, targets, seed)
    -> {"reward_auc": 0.71, "reward_auc_ci": [0.69, 0.73], ...}
    compare({"mtorl": (logits_BC, reward_BC), "lightgbm": ...}, "lightgbm", targets, seed)
    -> {"metrics": {"mtorl": {...}, ...}, "differences": {"mtorl": {"reward_auc": 0.004, "reward_auc_ci": [...]}}, ...}

For the intervals, whole users are resampled (`resamples.py`). A resample is a weight for each row, and every metric is
computed from such weights, so the scores are sorted only once. All predictors are evaluated on the same resamples, so
that errors common to two predictors cancel in their difference. If a metric is not defined (there are no rows, or an
AUC has only one class), the metric and its interval are None.

The calibration error is the gap between the mean prediction and the mean outcome in a bin, averaged over ten bins. Bins
have equal numbers of rows, because most bins of equal *width* would be nearly empty. Rows with equal predictions are in
one bin, so a constant prediction is judged only by its mean. Even a perfectly calibrated head has an error, by noise:
about 0.8 sqrt(10 p (1 - p) / rows) if the mean outcome is p, and more if users differ. Each resample adds as much noise
again, so the interval is shifted down by the mean error that resampling adds. The calibration of the action head is
that of the probability of its first choice ("top-label", Guo et al. 2017, arXiv:1706.04599). The calibration of the
reward head is that of the predicted reward of the logged channel.

Shapes: B rows, C channels, U users, R resamples, S sums.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from mtorl.arrays import Bools, Floats, Ints
from mtorl.evaluation.resamples import UserResamples, interval

# Computes a metric from a weight for each row. NaN means undefined.
Metric = Callable[[Floats], float]

METRICS = (
    "action_accuracy",
    "action_auc",
    "action_f1",
    "action_logloss",
    "action_ece",
    "reward_auc",
    "reward_logloss",
    "reward_ece",
)
_NEVER_NEGATIVE = ("action_ece", "reward_ece")  # noise can only increase these errors
_BINS = 10
_TINY = 1e-12  # avoids log(0) and division by zero


class Comparison(TypedDict):
    """Metrics of several predictors, and their differences from a reference predictor (the yardstick)."""

    yardstick: str
    metrics: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, Any]]  # minus those of the yardstick


@dataclass(frozen=True)
class LoggedTargets:
    """The labels in a log with which the action head and the reward head are evaluated."""

    channel_B: ArrayLike
    reward_B: ArrayLike  # in [0, 1]
    users_B: ArrayLike
    # Rows that count as positive in `reward_auc`. By default, these are the rows with a label of at least 0.5.
    positive_B: ArrayLike | None = None
    # Rows on which the action head is evaluated, because it does not learn our own policies' decisions.
    clone_B: ArrayLike | None = None


def evaluate(
    logits_BC: ArrayLike, reward_BC: ArrayLike | None, targets: LoggedTargets, seed: int, resamples: int = 200
) -> dict[str, Any]:
    """Return all METRICS of one predictor, each with its 95 % interval (key NAME_ci).

    Args:
        reward_BC: Predicted rewards; None if the predictor has no reward head.
    """
    return compare({"only": (logits_BC, reward_BC)}, "only", targets, seed, resamples)["metrics"]["only"]


def compare(
    predictors: Mapping[str, tuple[ArrayLike, ArrayLike | None]],
    yardstick: str,
    targets: LoggedTargets,
    seed: int,
    resamples: int = 200,
) -> Comparison:
    """Return the metrics of several predictors, and the difference between each predictor and the yardstick.

    Args:
        predictors: The action logits of each predictor, and its predicted rewards or None.
        yardstick: Name of the predictor that all others are compared with.
    """
    channel: Ints = np.asarray(targets.channel_B, dtype=np.int64)
    label: Floats = np.asarray(targets.reward_B, dtype=np.float64)
    success_B = label >= 0.5 if targets.positive_B is None else np.asarray(targets.positive_B, dtype=bool)
    clone_B = np.ones(len(channel), dtype=bool) if targets.clone_B is None else np.asarray(targets.clone_B, dtype=bool)
    heads: dict[str, dict[str, Metric]] = {}
    for name, parts in predictors.items():
        logits_BC, reward_BC = (None if part is None else np.asarray(part, dtype=np.float64) for part in parts)
        heads[name] = {}
        if logits_BC is not None and clone_B.any():
            heads[name] |= _action_metrics(logits_BC[clone_B], channel[clone_B])
        if reward_BC is not None and channel.size:
            heads[name] |= _reward_metrics(reward_BC[np.arange(len(channel)), channel], label, success_B)

    # The first column is the log itself, and each other column a resample.
    draws = {name: np.full((len(METRICS), 1 + resamples), np.nan) for name in predictors}
    users = UserResamples(targets.users_B, resamples, seed)
    for r, counts_U in enumerate(chain([np.ones(users.users)], users) if channel.size else ()):
        weight_B = counts_U[users.code_B]
        for name, metrics in heads.items():
            for m, metric in enumerate(METRICS):
                if metric in metrics:
                    of_head_B = weight_B[clone_B] if metric.startswith("action") else weight_B
                    draws[name][m, r] = metrics[metric](of_head_B) if of_head_B.any() else np.nan
    for draws_MR in draws.values():
        for m, metric in enumerate(METRICS):
            if metric in _NEVER_NEGATIVE:
                added = draws_MR[m, 1:].mean() - draws_MR[m, 0]
                draws_MR[m, 1:] = np.maximum(draws_MR[m, 1:] - added, 0.0)
    others = [name for name in predictors if name != yardstick]
    return Comparison(
        yardstick=yardstick,
        metrics={name: _summary(draws_MR) for name, draws_MR in draws.items()},
        differences={name: _summary(draws[name] - draws[yardstick]) for name in others},
    )


def top_label(logits_BC: ArrayLike, channel_B: ArrayLike) -> tuple[Floats, Bools]:
    """Return the probability of each row's most probable channel, and whether the log used this channel."""
    logprob_BC = log_softmax(np.asarray(logits_BC, dtype=np.float64), axis=1)
    return np.exp(logprob_BC.max(axis=1)), logprob_BC.argmax(axis=1) == np.asarray(channel_B)


def calibration_error(predicted_B: ArrayLike, actual_B: ArrayLike) -> float:
    """Return the calibration error of predictions in [0, 1], in ten bins."""
    predicted, actual = np.asarray(predicted_B, dtype=np.float64), np.asarray(actual_B, dtype=np.float64)
    return _calibration_error(predicted, actual)(np.ones(len(predicted)))


def auc(score_B: Floats, positive_B: Bools) -> Metric:
    """Return a function that computes the area under the ROC curve from one weight per row."""
    order_B = np.argsort(score_B, kind="stable")
    ranked = score_B[order_B]
    ties = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    positive = positive_B[order_B].astype(np.float64)

    def metric(weight_B: Floats) -> float:
        weight = weight_B[order_B]
        hits = np.add.reduceat(weight * positive, ties)
        misses = np.add.reduceat(weight, ties) - hits
        pairs = hits.sum() * misses.sum()
        return float(hits @ (np.cumsum(misses) - misses / 2) / pairs) if pairs > 0 else np.nan

    return metric


def realised_auc(probability_N: ArrayLike, success_N: ArrayLike) -> float:
    """Return the area under the ROC curve of predicted probabilities; NaN if all outcomes are the same."""
    p_N = np.asarray(probability_N, dtype=np.float64)
    if not len(p_N):
        return float("nan")
    return auc(p_N, np.asarray(success_N, dtype=np.bool_))(np.ones(len(p_N)))


def expected_auc(probability_N: ArrayLike) -> float:
    """Estimate the area under the ROC curve of predictions whose outcomes are still unknown.

    Each prediction p counts as a success with weight p, and as a failure with weight 1 - p (NannyML).

    Returns NaN if there are no predictions.
    """
    p_N = np.clip(np.asarray(probability_N, dtype=np.float64), 0.0, 1.0)
    if not len(p_N):
        return float("nan")
    success_N = np.repeat([True, False], len(p_N))
    return auc(np.concatenate([p_N, p_N]), success_N)(np.concatenate([p_N, 1.0 - p_N]))


def auc_error(area: float, successes: int, failures: int) -> float:
    """Return the standard error of a measured area under the ROC curve (Hanley and McNeil, 1982)."""
    if not (successes and failures) or not np.isfinite(area):
        return float("nan")
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (successes - 1) * (q1 - area**2) + (failures - 1) * (q2 - area**2)
    return float(np.sqrt(max(spread, 0.0) / (successes * failures)))


def _mean(value_B: NDArray[Any]) -> Metric:
    return lambda weight_B: float(weight_B @ value_B / weight_B.sum())


def _summary(draws_MR: Floats) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for metric, draws_R in zip(METRICS, draws_MR, strict=True):
        answered = bool(np.isfinite(draws_R[0]))
        summary[metric] = float(draws_R[0]) if answered else None
        summary[f"{metric}_ci"] = interval(draws_R[1:]) if answered else None
    return summary


def _action_metrics(logits_BC: Floats, channel_B: Ints) -> dict[str, Metric]:
    channels = logits_BC.shape[1]
    choice_B = logits_BC.argmax(axis=1)
    logprob_BC: Floats = log_softmax(logits_BC, axis=1)
    one_vs_rest = [auc(logprob_BC[:, c], channel_B == c) for c in range(channels)]
    logged = np.unique(channel_B)

    def mean_auc(weight_B: Floats) -> float:
        values = np.array([metric(weight_B) for metric in one_vs_rest])
        values = values[np.isfinite(values)]
        return float(values.mean()) if values.size else np.nan

    def mean_f1(weight_B: Floats) -> float:
        actual = np.bincount(channel_B, weight_B, channels)[logged]
        chosen = np.bincount(choice_B, weight_B, channels)[logged]
        both = np.bincount(channel_B, weight_B * (choice_B == channel_B), channels)[logged]
        return float(np.mean(2 * both / np.maximum(actual + chosen, _TINY)))

    return {
        "action_accuracy": _mean(choice_B == channel_B),
        "action_auc": mean_auc,
        "action_f1": mean_f1,
        "action_logloss": _mean(-logprob_BC[np.arange(len(channel_B)), channel_B]),
        "action_ece": _calibration_error(*top_label(logits_BC, channel_B)),
    }


def _reward_metrics(predicted_B: Floats, target_B: Floats, success_B: Bools) -> dict[str, Metric]:
    sure_B = np.clip(predicted_B, _TINY, 1 - _TINY)
    loss_B = -target_B * np.log(sure_B) - (1 - target_B) * np.log1p(-sure_B)
    return {
        "reward_auc": auc(predicted_B, success_B),
        "reward_logloss": _mean(loss_B),
        "reward_ece": _calibration_error(predicted_B, target_B),
    }


def _calibration_error(predicted_B: Floats, actual_B: Floats | Bools) -> Metric:
    # Equal predictions get the same bin.
    bin_B = np.searchsorted(np.sort(predicted_B), predicted_B) * _BINS // len(predicted_B)
    gap_B = predicted_B - actual_B

    def metric(weight_B: Floats) -> float:
        return float(np.abs(np.bincount(bin_B, weight_B * gap_B)).sum() / weight_B.sum())

    return metric
