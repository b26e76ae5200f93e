"""Implements gradient-boosted trees on features of windows. They are the yardstick that MTORL is compared with.

    predictor = fit(train, val, encoder, seed=0).calibrated(val, users_B)
    outcomes = fit_outcomes(train, val, encoder, seed=0)      # only the models of reward and cost

Such trees are more accurate than most networks on logs like these. Three models are trained, each with early stopping
on validation users: for the channel (multi-class), for the reward (cross-entropy) and for the cost (Poisson, like
MTORL's cost loss). The channel is an input of the models for reward and cost, which predict each channel in turn. All
three models are trained twice, with different seeds. As in MTORL's ensemble, the two predictions are averaged, and the
mean is calibrated.
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

SEEDS = 2  # number of sets of models; MTORL's ensemble has as many networks
ROUNDS = 1000  # largest number of trees per model (and per channel, in the model of the channel)
PATIENCE = 30  # training stops after this many rounds without a better validation loss
PARAMETERS = {
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "verbose": -1,
    "deterministic": True,
    "num_threads": 1,  # by default, LightGBM starts a thread for each core of the node, even in a pod with one core
    "force_row_wise": True,  # otherwise LightGBM chooses the data layout by its speed, which is not deterministic
}
# Each run trains several models with different seeds. The seeds of a run differ by this number, which is large, so that
# the runs with seeds 0 and 1 do not train the same model.
_SEED_STEP = 7919
_TINY = 1e-12


@dataclass(frozen=True)
class BoostedOutcomes:
    """The trained tree models for the reward and the cost of an exposure."""

    encoder: Encoder
    reward: Any  # lightgbm.Booster
    cost: Any | None  # lightgbm.Booster, or None if all touchpoints in training have the same cost
    constant_cost: float

    def predict(self, batch: Windows) -> tuple[Floats, Floats]:
        """Return the expected reward (B, C) and cost (B, C) of each channel at the last step of each window."""
        return self.of(Summary.of(batch, self.encoder))

    def of(self, summary: Summary) -> tuple[Floats, Floats]:
        """Return the expected reward (B, C) and cost (B, C) of each channel, given the features of the windows."""
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
    """The trained predictor, which averages the predictions of several sets of models, and then calibrates the mean.

    If `calibration` is None, the mean is not calibrated.
    """

    # One tuple for each set of models: the lightgbm.Booster that predicts the channel, and the models of reward and
    # cost.
    members: tuple[tuple[Any, BoostedOutcomes], ...]
    calibration: Calibration | None = None

    def predict(self, batch: Windows) -> Heads:
        """Return action logits, expected rewards and expected costs (B, C) at the last step of each window."""
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
            held_out: Windows, with their targets, of users that the models were not trained on.
            users_B: User of each of these windows.
            mean_C: Mean reward label of each channel; None if it is unknown.
        """
        logits_BC, reward_BC, _ = replace(self, calibration=None).predict(held_out)
        logged = labels(held_out, self.members[0][1].encoder)
        clone_B = ~logged.collected_B
        fitted = calibrate(logits_BC, reward_BC, logged.channel_B, logged.reward_B, users_B, mean_C, clone_B)
        return replace(self, calibration=fitted)

    def to_dict(self) -> dict[str, Any]:
        """Return the models and the calibration as values that JSON can represent."""
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
    """Train the three models once for each of `SEEDS` seeds. The result is not calibrated.

    The seed determines the rows and features that each tree uses.
    """
    parts = _labelled(train, val, encoder)
    # Leave out the decisions of our own policies when training the model of the channel. Like MTORL's action head, this
    # model imitates the policy that wrote the original log.
    clones = [~logged.collected_B if not logged.collected_B.all() else slice(None) for _, logged in parts]
    plain = [
        (summary.values_BF[clone], logged.channel_B[clone].astype(np.float64))
        for clone, (summary, logged) in zip(clones, parts, strict=True)
    ]
    # Category codes are used like numbers, because LightGBM overfits if it treats a feature with many values as
    # categorical. Only the channel is treated as categorical, so that the models of reward and cost learn its effect.
    several = {"objective": "multiclass", "num_class": len(encoder.channels)}
    seeds = [seed + _SEED_STEP * member for member in range(SEEDS)]
    return Boosted(tuple((_grow(plain, [], own, **several), _outcomes(parts, encoder, own)) for own in seeds))


def fit_outcomes(train: Windows, val: Windows, encoder: Encoder, seed: int) -> BoostedOutcomes:
    """Train only the models for reward and cost, if the probabilities of the channels are not needed."""
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
    """Return the LightGBM predictor in an artifact, trained on the same users as the artifact's network.

    Returns None if the artifact contains no such predictor.
    """
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
