"""How well the heads predict, with intervals: action and reward metrics on users that training never saw.

    evaluate(logits_BC, reward_BC, channel_B, reward_target_B, users_B, seed)
    -> {"reward_auc": 0.71, "reward_auc_ci": [0.69, 0.73], ...}

A user's rows resemble each other, so intervals come from resampling whole users with replacement. A resample is a
weight on each row (how often its user was drawn), and every metric takes weights: no row is copied, and a ranking is
sorted once.

A metric that the data cannot answer (AUC with one class only, no rows) is None, and so is its interval.

Shapes: B rows, C channels, U users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtorl.decision import Bools, Floats

Metric = Callable[[Floats], float]  # of a weight for each row; NaN if there is no answer

METRICS = (
    "action_accuracy",
    "action_auc",
    "action_f1",
    "action_logloss",
    "reward_auc",
    "reward_logloss",
    "reward_ece",
)
_LEVEL = 0.95
_BINS = 10
_TINY = 1e-12  # keeps a logarithm finite


class UserResamples:
    """Iterates over resamples: how often each user was drawn. `counts_U[code_B]` weighs the rows."""

    def __init__(self, users_B: ArrayLike, resamples: int, seed: int) -> None:
        users, self.code_B = np.unique(np.asarray(users_B), return_inverse=True)
        self.users = len(users)
        self._resamples = resamples
        self._seed = seed

    def __iter__(self) -> Iterator[Floats]:
        random = np.random.default_rng(self._seed)
        for _ in range(self._resamples):
            drawn = random.integers(self.users, size=self.users)
            yield np.bincount(drawn, minlength=self.users).astype(np.float64)


def interval(values: ArrayLike) -> list[float] | None:
    """Central 95 % of resampled values; None if none of them is a number."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return None
    return [float(edge) for edge in np.quantile(numbers, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])]


def evaluate(
    logits_BC: ArrayLike,
    reward_BC: ArrayLike,
    channel_B: ArrayLike,
    reward_target_B: ArrayLike,
    users_B: ArrayLike,
    seed: int,
    positive_B: ArrayLike | None = None,
    resamples: int = 200,
) -> dict[str, Any]:
    """Metrics of the action and the reward head, each with a 95 % interval under `NAME_ci`.

    Args:
        logits_BC: Action head.
        reward_BC: Reward head, in [0, 1]. Only the logged channel's value can be scored.
        channel_B: Logged channel.
        reward_target_B: Reward label of the logged channel, in [0, 1].
        users_B: User of each row.
        seed: Seed of the resampling.
        positive_B: Which rows count as a success for `reward_auc`. By default those with a label of at least one half,
            right for a yes-or-no gain; give `revenue > 0` or the like for another.
        resamples: Number of resamples.

    Returns:
        action_accuracy, action_auc (one-vs-rest, mean over channels), action_f1 (mean over logged channels),
        action_logloss, reward_auc, reward_logloss, reward_ece (gap between mean predicted and mean actual reward,
        averaged over ten equally full bins of the prediction; resampling noise widens its interval upwards).
    """
    found: dict[str, Any] = dict.fromkeys(name for metric in METRICS for name in (metric, f"{metric}_ci"))
    channel: NDArray[np.int64] = np.asarray(channel_B, dtype=np.int64)
    if not channel.size:
        return found
    target: Floats = np.asarray(reward_target_B, dtype=np.float64)
    predicted_B: Floats = np.asarray(reward_BC, dtype=np.float64)[np.arange(len(channel)), channel]
    success_B = target >= 0.5 if positive_B is None else np.asarray(positive_B, dtype=bool)
    metrics = _action_metrics(np.asarray(logits_BC, dtype=np.float64), channel)
    metrics |= _reward_metrics(predicted_B, target, success_B)

    draws: dict[str, list[float]] = {name: [] for name in METRICS}
    users = UserResamples(users_B, resamples, seed)
    for counts_U in users:
        weight_B = counts_U[users.code_B]
        for name, metric in metrics.items():
            draws[name].append(metric(weight_B))
    for name, metric in metrics.items():
        value = metric(np.ones(len(channel)))
        if np.isfinite(value):
            found[name], found[f"{name}_ci"] = float(value), interval(draws[name])
    return found


def auc(score_B: Floats, positive_B: Bools) -> Metric:
    """Weighted area under the ROC curve: the chance that a positive outranks a negative, a tie counting half."""
    order_B = np.argsort(score_B, kind="stable")
    ranked = score_B[order_B]
    ties = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # where each run of equal scores starts
    positive = positive_B[order_B].astype(np.float64)

    def metric(weight_B: Floats) -> float:
        weight = weight_B[order_B]
        hits = np.add.reduceat(weight * positive, ties)
        misses = np.add.reduceat(weight, ties) - hits
        pairs = hits.sum() * misses.sum()
        return float(hits @ (np.cumsum(misses) - misses / 2) / pairs) if pairs > 0 else np.nan

    return metric


def _mean(value_B: NDArray[Any]) -> Metric:
    return lambda weight_B: float(weight_B @ value_B / weight_B.sum())


def _action_metrics(logits_BC: Floats, channel_B: NDArray[np.int64]) -> dict[str, Metric]:
    channels = logits_BC.shape[1]
    choice_B = logits_BC.argmax(axis=1)
    shifted_BC = logits_BC - logits_BC.max(axis=1, keepdims=True)
    logprob_BC = shifted_BC - np.log(np.exp(shifted_BC).sum(axis=1, keepdims=True))
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
    }


def _reward_metrics(predicted_B: Floats, target_B: Floats, success_B: Bools) -> dict[str, Metric]:
    sure_B = np.clip(predicted_B, _TINY, 1 - _TINY)
    loss_B = -target_B * np.log(sure_B) - (1 - target_B) * np.log1p(-sure_B)
    rank_B = np.argsort(np.argsort(predicted_B, kind="stable"), kind="stable")
    bin_B = rank_B * _BINS // len(rank_B)

    def calibration_error(weight_B: Floats) -> float:
        gaps = np.bincount(bin_B, weight_B * (predicted_B - target_B), _BINS)
        return float(np.abs(gaps).sum() / weight_B.sum())

    return {
        "reward_auc": auc(predicted_B, success_B),
        "reward_logloss": _mean(loss_B),
        "reward_ece": calibration_error,
    }
