"""Implements gradient-boosted trees on features of windows, the yardstick that MTORL is compared with.

    predictor = fit(train, val, encoder, seed=0).calibrated(val, users_B)

Two models with different seeds are averaged and then calibrated, as in MTORL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mtorl.arrays import Floats
from mtorl.artifact.artifact import Artifact
from mtorl.baselines.inputs import Summary
from mtorl.network.calibration import Calibration, calibrate
from mtorl.network.predictor import Heads
from mtorl.window.encoder import Encoder, Labels, labels
from mtorl.window.on_demand import Windows

SEEDS = 2  # as many as the networks in MTORL's ensemble
ROUNDS = 1000  # largest number of trees per model, or per channel
PATIENCE = 30  # rounds without a better validation loss until training stops
PARAMETERS = {
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "verbose": -1,
    "deterministic": True,
    "num_threads": 1,  # the default is a thread for each core of the node
    "force_row_wise": True,  # the default layout depends on its speed
}
# Distance between the seeds of one run's models, so that runs with the seeds 0 and 1 share no model.
_SEED_STEP = 7919
_TINY = 1e-12


@dataclass(frozen=True)
class BoostedOutcomes:
    """The trained tree models for the reward and the cost of an exposure."""

    encoder: Encoder
    reward: Any  # lightgbm.Booster
    cost: Any | None  # None if all touchpoints in training have the same cost
    constant_cost: float

    def predict(self, batch: Windows) -> tuple[Floats, Floats]:
        """Return the expected rewards and costs (B, C) at the last step of each window."""
        return self.of(Summary.of(batch, self.encoder))

    def of(self, summary: Summary) -> tuple[Floats, Floats]:
        """Return the expected rewards and costs (B, C), given the features of the windows."""
        shape = len(summary.values_BF), len(self.encoder.channels)
        reward_BC, cost_BC = np.empty(shape), np.full(shape, self.constant_cost)
        for channel in range(shape[1]):
            values_BF = _with_channel(summary, np.full(shape[0], channel, dtype=np.float64))
            reward_BC[:, channel] = self.reward.predict(values_BF)
            if self.cost is not None:
                cost_BC[:, channel] = self.cost.predict(values_BF)
        return reward_BC, cost_BC


@dataclass(frozen=True)
class Boosted:
    """The trained predictor: the mean of several sets of models, possibly calibrated."""

    # the lightgbm.Booster that predicts the channel, and the models of reward and cost
    members: tuple[tuple[Any, BoostedOutcomes], ...]
    calibration: Calibration | None = None

    def predict(self, batch: Windows) -> Heads:
        """Return action logits, rewards and costs (B, C) at the last step of each window."""
        summary = Summary.of(batch, self.members[0][1].encoder)
        probs_BC = np.mean([action.predict(summary.values_BF) for action, _ in self.members], axis=0)
        reward_BC, cost_BC = np.mean([outcomes.of(summary) for _, outcomes in self.members], axis=0)
        logits_BC = np.log(np.maximum(probs_BC, _TINY))
        if self.calibration is not None:
            logits_BC, reward_BC = self.calibration.of(logits_BC, reward_BC)
        return logits_BC, reward_BC, cost_BC

    def calibrated(self, held_out: Windows, users_B: ArrayLike, mean_C: Floats | None = None) -> Boosted:
        """Return the predictor with a calibration that is fitted in the same way as MTORL's.

        Args:
            held_out: Windows with their targets, of users that the models were not trained on.
            mean_C: Mean reward label of each channel. None means unknown.
        """
        logits_BC, reward_BC, _ = replace(self, calibration=None).predict(held_out)
        logged = labels(held_out, self.members[0][1].encoder)
        clone_B = ~logged.collected_B
        fitted = calibrate(logits_BC, reward_BC, logged.channel_B, logged.reward_B, users_B, mean_C, clone_B)
        return replace(self, calibration=fitted)

    def to_dict(self) -> dict[str, Any]:
        """Return a form that JSON can represent."""
        trees = [{"action": action, "reward": of.reward, "cost": of.cost} for action, of in self.members]
        texts = [{name: None if one is None else one.model_to_string() for name, one in own.items()} for own in trees]
        return {
            "members": texts,
            "constant_cost": self.members[0][1].constant_cost,
            "calibration": None if self.calibration is None else self.calibration._asdict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], encoder: Encoder) -> Boosted:
        """Create the models from the result of `to_dict`."""
        import lightgbm

        members = []
        for texts in data["members"]:
            action, reward, cost = (
                None if texts[name] is None else lightgbm.Booster(model_str=texts[name])
                for name in ("action", "reward", "cost")
            )
            members.append((action, BoostedOutcomes(encoder, reward, cost, data["constant_cost"])))
        fitted = data["calibration"]
        return cls(tuple(members), None if fitted is None else Calibration(**fitted))


def fit(train: Windows, val: Windows, encoder: Encoder, seed: int) -> Boosted:
    """Train the three models once for each of `SEEDS` seeds, without calibration."""
    parts = _labelled(train, val, encoder)
    # The channel model imitates the original logging policy, so drop decisions that our own policies made.
    clones = [~logged.collected_B if not logged.collected_B.all() else slice(None) for _, logged in parts]
    plain = [
        (summary.values_BF[clone], logged.channel_B[clone].astype(np.float64))
        for clone, (summary, logged) in zip(clones, parts, strict=True)
    ]
    # Only the channel is a categorical feature: LightGBM overfits to categorical features with many values.
    several = {"objective": "multiclass", "num_class": len(encoder.channels)}
    seeds = [seed + _SEED_STEP * member for member in range(SEEDS)]
    return Boosted(tuple((_grow(plain, [], own, **several), _outcomes(parts, encoder, own)) for own in seeds))


def fit_outcomes(train: Windows, val: Windows, encoder: Encoder, seed: int) -> BoostedOutcomes:
    """Train only the models of reward and cost."""
    return _outcomes(_labelled(train, val, encoder), encoder, seed)


def _labelled(train: Windows, val: Windows, encoder: Encoder) -> list[tuple[Summary, Labels]]:
    return [(Summary.of(batch, encoder), labels(batch, encoder)) for batch in (train, val)]


def _outcomes(parts: list[tuple[Summary, Labels]], encoder: Encoder, seed: int) -> BoostedOutcomes:
    with_channel = [_with_channel(summary, logged.channel_B.astype(np.float64)) for summary, logged in parts]
    rewards = [(values, logged.reward_B) for values, (_, logged) in zip(with_channel, parts, strict=True)]
    costs = [(values, logged.cost_B) for values, (_, logged) in zip(with_channel, parts, strict=True)]
    paid_B = costs[0][1]
    categorical = [rewards[0][0].shape[1] - 1]
    reward = _grow(rewards, categorical, seed, objective="cross_entropy")
    cost = _grow(costs, categorical, seed, objective="poisson") if paid_B.min() < paid_B.max() else None
    return BoostedOutcomes(encoder, reward, cost, float(paid_B.mean()))


def _with_channel(summary: Summary, channel_B: Floats) -> Floats:
    return np.concatenate([summary.values_BF, channel_B[:, None]], axis=1)


def stored_in(artifact: Artifact) -> Boosted | None:
    """Return the LightGBM predictor in an artifact, or None if the artifact contains none."""
    trees = artifact.yardstick()
    return None if trees is None else Boosted.from_dict(trees, artifact.encoder)


def _grow(parts: list[tuple[Floats, Floats]], categorical: list[int], seed: int, **goal: Any) -> Any:
    import lightgbm

    train, val = (lightgbm.Dataset(*part, categorical_feature=categorical) for part in parts)
    return lightgbm.train(
        {**PARAMETERS, **goal, "seed": seed},
        train,
        ROUNDS,
        valid_sets=[val],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
