"""Lists the methods that are compared: MTORL, its ablations and the baselines.

Each method is a function that trains on the training and validation rows of a task, and predicts the test rows.
"""

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mtorl.arrays import Floats
from mtorl.comparison.task import Task
from mtorl.log.propensity import channel_means
from mtorl.network.parallel import one_thread
from mtorl.network.predictor import Heads, predict
from mtorl.network.training import TrainConfig

YARDSTICK = "lightgbm"
OURS = "mtorl"

BASELINES = (
    *("channel_frequency", "repeat_last", "markov", "logistic", YARDSTICK, "behaviour_cloning", "cql", "iql", "bcq"),
    "decision_transformer",
)
NO_REWARD = frozenset({"behaviour_cloning", "decision_transformer", f"{OURS} without reward task"})
"""Methods that only choose a channel. They predict neither a reward nor a cost."""

ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "without convolutions": {"convolutions": False},  # only the decay of the memory still depends on the order
    "without attention": {"attention": False},
    "without reward task": {"mu": 0.0, "nu": 0.0},
    "without preference": {"lam": 0.0},
}
"""Ablations: MTORL without one part of the paper's method. Each name has the fields of `TrainConfig` that differ from
the default."""


@dataclass(frozen=True)
class Answer:
    """A method's predictions for the test rows, with the time that its training took."""

    heads: Heads
    seconds: float  # CPU time on one thread, which does not depend on other work of the machine
    parameters: int | None  # None for methods other than MTORL and its ablations


Method = Callable[[Task, int], Answer]


def _baseline(name: str) -> Method:
    def answer(task: Task, seed: int) -> Answer:
        module = importlib.import_module(f"mtorl.baselines.{name}")
        started = time.process_time()
        fitted = module.fit(task.train.windows, task.val.windows, task.encoder, seed)
        seconds = time.process_time() - started
        return Answer(fitted.predict(task.test.windows), seconds, None)

    return answer


def _yardstick(task: Task, seed: int) -> Answer:
    from mtorl.baselines import lightgbm

    started = time.process_time()
    fitted = lightgbm.fit(task.train.windows, task.val.windows, task.encoder, seed)
    seconds = time.process_time() - started
    users_B = task.val.rows["user_id"].to_numpy()
    calibrated = fitted.calibrated(task.val.windows, users_B, _channel_means(task))
    return Answer(calibrated.predict(task.test.windows), seconds, None)


def _channel_means(task: Task) -> Floats | None:
    rows = task.table.rows[~task.table.is_in("test")]
    return channel_means(rows, task.spec, task.encoder.reward(task.spec.reward.gain.of(rows), rows["cost"]))


def _channel_frequency(task: Task, seed: int) -> Answer:
    from mtorl.baselines import channel_frequency

    del seed
    started = time.process_time()
    network = channel_frequency.fit([task.tiles], task.encoder)
    seconds = time.process_time() - started
    return Answer(predict(network, task.encoder, task.test.windows), seconds, None)


def mtorl_with(changes: Mapping[str, Any]) -> Method:
    """Return a method that trains MTORL with some fields of `TrainConfig` changed."""

    def answer(task: Task, seed: int) -> Answer:
        from mtorl.network.calibration import calibrate_ensemble
        from mtorl.network.ensemble import train_ensemble
        from mtorl.window.loader import EncodedWindows, TrainingWindows

        config = replace(TrainConfig(seed=seed, device="cpu"), **changes)
        encoder = task.encoder
        started = time.process_time()
        data = TrainingWindows(
            [EncodedWindows(task.tiles, encoder)],
            [EncodedWindows(task.val_tiles, encoder)],
            channels=len(task.spec.channels),
        )
        with one_thread():
            trained = train_ensemble(data, config)
        seconds = time.process_time() - started
        users_B = task.val.rows["user_id"].to_numpy()
        calibrate_ensemble(trained.ensemble, encoder, task.val.windows, users_B, _channel_means(task))
        heads = predict(trained.ensemble, encoder, task.test.windows)
        logits, reward, cost = (part.astype(np.float64) for part in heads)
        return Answer((logits, reward, cost), seconds, trained.parameters)

    return answer


METHODS: dict[str, Method] = {
    OURS: mtorl_with({}),
    **{f"{OURS} {name}": mtorl_with(changes) for name, changes in ABLATIONS.items()},
    **{name: _baseline(name) for name in BASELINES},
    "channel_frequency": _channel_frequency,
    YARDSTICK: _yardstick,
}
