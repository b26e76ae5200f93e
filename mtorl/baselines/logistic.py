"""Implements logistic and Poisson regressions with the same features as LightGBM, but without their interactions.

Shapes: B windows, S numbers of a state, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtorl.arrays import Floats, Ints
from mtorl.baselines.inputs import States
from mtorl.network.predictor import Heads
from mtorl.window.encoder import Encoder, labels
from mtorl.window.window import WindowBatch

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)  # L2 regularisations; the validation loss selects one
ITERATIONS = 200
_TINY = 1e-12


@dataclass(frozen=True)
class Linear:
    """A fitted `Predictor`."""

    states: States
    action: Any  # sklearn's LogisticRegression
    reward: Any
    cost: Any | None  # sklearn's PoissonRegressor, or None if the cost is constant in training
    mean_cost: float

    def predict(self, batch: WindowBatch) -> Heads:
        """Return action logits, rewards and costs (B, C) at the last step of each window."""
        state_BS = self.states.of(batch)
        logits_BC = np.log(np.maximum(self.action.predict_proba(state_BS), _TINY))
        reward_BC, cost_BC = np.empty(logits_BC.shape), np.full(logits_BC.shape, self.mean_cost)
        for channel in range(logits_BC.shape[1]):
            inputs = _with_channel(state_BS, np.full(len(batch), channel), logits_BC.shape[1])
            reward_BC[:, channel] = self.reward.predict_proba(inputs)[:, 1]
            if self.cost is not None:
                cost_BC[:, channel] *= self.cost.predict(inputs)
        return logits_BC, reward_BC, cost_BC


def fit(train: WindowBatch, val: WindowBatch, encoder: Encoder, seed: int) -> Linear:
    """Fit the three regressions. The seed is not used, because each regression has only one solution."""
    del seed
    logged, val_logged = labels(train, encoder), labels(val, encoder)
    states = States.fit(train, encoder)
    state_BS, val_BS = states.of(train), states.of(val)
    channels, mean_cost = len(encoder.channels), float(logged.cost_B.mean())
    inputs = _with_channel(state_BS, logged.channel_B, channels)
    val_inputs = _with_channel(val_BS, val_logged.channel_B, channels)

    def action_loss(model: Any) -> float:
        return float(-np.log(model.predict_proba(val_BS)[np.arange(len(val)), val_logged.channel_B] + _TINY).mean())

    def reward_loss(model: Any) -> float:
        miss_B, hit_B = np.log(model.predict_proba(val_inputs) + _TINY).T
        return float(-(val_logged.reward_B * hit_B + (1 - val_logged.reward_B) * miss_B).mean())

    def cost_loss(model: Any) -> float:
        from sklearn.metrics import mean_poisson_deviance

        return float(mean_poisson_deviance(val_logged.cost_B / mean_cost, model.predict(val_inputs)))

    action = _chosen(lambda strength: _channel(state_BS, logged.channel_B, channels, strength), action_loss)
    reward = _chosen(lambda strength: _share(inputs, logged.reward_B, strength), reward_loss)
    cost = None
    if logged.cost_B.min() < logged.cost_B.max():
        # Divide the cost by its mean, so that the effect of the regularisation does not depend on the currency.
        cost = _chosen(lambda strength: _amount(inputs, logged.cost_B / mean_cost, strength), cost_loss)
    return Linear(states, action, reward, cost, mean_cost)


def _with_channel(state_BS: Floats, channel_B: Ints, channels: int) -> Floats:
    return np.concatenate([state_BS, np.eye(channels)[channel_B]], axis=1)


def _chosen(solve: Callable[[float], Any], loss: Callable[[Any], float]) -> Any:
    return min((solve(strength) for strength in STRENGTHS), key=loss)


def _channel(state_BS: Floats, channel_B: Ints, channels: int, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    # Scikit-learn drops classes without rows, so add one row for each channel. Its state is the mean state, which is 0.
    inputs = np.concatenate([state_BS, np.zeros((channels, state_BS.shape[1]))])
    classes = np.concatenate([channel_B, np.arange(channels)])
    return LogisticRegression(C=1 / (strength * len(inputs)), max_iter=ITERATIONS).fit(inputs, classes)


def _share(inputs: Floats, reward_B: Floats, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    # Scikit-learn needs labels of 0 or 1: split a reward r into a success of weight r and a failure of weight 1 - r.
    both = np.repeat([0, 1], len(inputs))
    weights = np.concatenate([1 - reward_B, reward_B])
    model = LogisticRegression(C=1 / (strength * len(inputs)), max_iter=ITERATIONS, solver="newton-cholesky")
    return model.fit(np.concatenate([inputs, inputs]), both, weights)


def _amount(inputs: Floats, cost_B: Floats, strength: float) -> Any:
    from sklearn.linear_model import PoissonRegressor

    return PoissonRegressor(alpha=strength, max_iter=ITERATIONS, solver="newton-cholesky").fit(inputs, cost_B)
