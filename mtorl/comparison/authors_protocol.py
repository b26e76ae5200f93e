"""Evaluates MTORL with the protocol of the paper's authors, whose test data overlap the training data.

The protocol draws windows of 20 touchpoints at random, with replacement. Only then does it split the windows into
training (80 %), validation (10 %) and test (10 %), so most test labels are also training labels. Even a table that
looks up the training labels scores well.

Shapes: W windows, T = 20 touchpoints per window, P touchpoints of the log, B touchpoints of the test windows, C
channels.
"""

from typing import Any

import numpy as np

from mtorl.arrays import Bools, Floats, Ints
from mtorl.evaluation.head_metrics import LoggedTargets, evaluate
from mtorl.evaluation.policy_value import SELECTED
from mtorl.network.parallel import one_thread
from mtorl.network.predictor import predict
from mtorl.network.training import TrainConfig
from mtorl.window.encoder import Encoder
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch

WINDOWS, LENGTH = 4000, 20
LOOKUP, OURS = "lookup table", "mtorl"


def authors_protocol(table: WindowTable, seed: int, config: TrainConfig | None = None) -> dict[str, Any]:
    """Evaluate MTORL and a table that looks up training labels, with the authors' protocol.

    Returns:
        The metrics of both methods, ``original_ctr`` (share of test touchpoints with a click) and ``overlap`` (share
        of test touchpoints that are also training touchpoints). Empty if no user has enough touchpoints.
    """
    rows_WT = _draw(table, seed)
    if not len(rows_WT):
        return {}
    edges = int(0.8 * WINDOWS), int(0.9 * WINDOWS)
    train_WT, val_WT, test_WT = np.split(rows_WT, edges)
    channel_P = np.array([table.spec.channels.index(name) for name in table.rows["channel"]])
    click_P = table.rows["click"].to_numpy(float)
    trained_P = np.zeros(len(channel_P), dtype=np.bool_)
    trained_P[train_WT.ravel()] = True
    test_B = test_WT.ravel()

    def judge(probs_BC: Floats, click_BC: Floats) -> dict[str, Any]:
        users_B, click_B = table.rows["user_id"].to_numpy()[test_B], click_P[test_B]
        targets = LoggedTargets(channel_P[test_B], click_B, users_B, positive_B=click_B > 0)
        metrics = evaluate(np.log(np.clip(probs_BC, 1e-6, 1.0)), click_BC, targets, seed)
        choice_B = probs_BC.argmax(axis=1)
        score_B = click_BC[np.arange(len(test_B)), choice_B]
        selected_B = _top_of_each_step(score_B.reshape(test_WT.shape), seed).ravel()
        ctr = policy_ctr(selected_B, choice_B, channel_P[test_B], click_P[test_B])
        return {"metrics": metrics, "policy_ctr": ctr}

    return {
        LOOKUP: judge(*_look_up(channel_P, click_P, trained_P, test_B, len(table.spec.channels))),
        OURS: judge(*_learn(table, train_WT, val_WT, test_B, config or TrainConfig(seed=seed, device="cpu"))),
        "original_ctr": float(click_P[test_B].mean()),
        "overlap": float(trained_P[test_B].mean()),
    }


def policy_ctr(selected_B: Bools, choice_B: Ints, channel_B: Ints, click_B: Floats) -> float:
    """Return the share of selected rows that have a click and whose predicted channel is the logged channel.

    This metric of the authors is biased: it also rises if a policy only guesses the logged channel more often.
    """
    return float(((choice_B == channel_B) * click_B)[selected_B].mean())


def _look_up(channel_P: Ints, click_P: Floats, trained_P: Bools, test_B: Ints, channels: int) -> tuple[Floats, Floats]:
    share_C = np.bincount(channel_P[trained_P], minlength=channels) / trained_P.sum()
    probs_BC = np.where(trained_P[test_B, None], np.eye(channels)[channel_P[test_B]], share_C)
    click_B = np.where(trained_P[test_B], click_P[test_B], click_P[trained_P].mean())
    return probs_BC, np.repeat(click_B[:, None], channels, axis=1)


def _learn(
    table: WindowTable, train_WT: Ints, val_WT: Ints, test_B: Ints, config: TrainConfig
) -> tuple[Floats, Floats]:
    """Train MTORL on the training windows, and predict the test touchpoints."""
    from mtorl.network.ensemble import train_ensemble
    from mtorl.window.loader import EncodedWindows, TrainingWindows

    # The authors' code uses the click as the reward label.
    reward = table.spec.reward.replace(gain="click", cost_weight=0.0)
    spec = table.spec.replace(window=LENGTH, reward=reward)

    def windows(rows: Ints, targets: bool) -> WindowBatch:
        return WindowBatch.from_steps(table.steps, rows, spec, targets)

    train = windows(train_WT[:, -1], targets=True)
    encoder = Encoder.fit(train, spec)
    val = windows(val_WT[:, -1], targets=True)
    data = TrainingWindows(
        [EncodedWindows(train, encoder)], [EncodedWindows(val, encoder)], channels=len(spec.channels)
    )
    with one_thread():
        trained = train_ensemble(data, config)
    logits_BC, reward_BC, cost_BC = predict(trained.ensemble, encoder, windows(test_B, targets=False))
    return np.exp(np.asarray(logits_BC, dtype=np.float64)), encoder.unreward(reward_BC, cost_BC)


def _draw(table: WindowTable, seed: int) -> Ints:
    users = table.rows["user_id"].to_numpy()
    first_U = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    size_U = np.diff(np.r_[first_U, len(users)])
    enough = size_U >= LENGTH + 2
    if not enough.any():
        return np.empty((0, LENGTH), dtype=np.int64)
    random = np.random.default_rng(seed)
    drawn = random.integers(enough.sum(), size=WINDOWS)
    first_W, size_W = first_U[enough][drawn], size_U[enough][drawn]
    start_W = first_W + (random.random(WINDOWS) * (size_W - LENGTH)).astype(np.int64)
    rows_WT: Ints = start_W[:, None] + np.arange(LENGTH)
    return rows_WT


def _top_of_each_step(score_WT: Floats, seed: int) -> Bools:
    order_WT = np.lexsort((np.random.default_rng(seed).random(score_WT.shape), -score_WT), axis=0)
    chosen_WT = np.zeros(score_WT.shape, dtype=np.bool_)
    np.put_along_axis(chosen_WT, order_WT[: round(SELECTED * len(score_WT))], True, axis=0)
    return chosen_WT
