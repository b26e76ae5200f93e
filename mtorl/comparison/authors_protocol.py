"""Evaluates MTORL with the protocol of the paper's authors, and measures how much its test data overlaps its training.

The protocol draws 4,000 windows of 20 touchpoints at random positions of the user histories, with replacement. Only
*after that* it splits the windows into training (80 %), validation (10 %) and test (10 %). So most touchpoints of the
test windows are also in training windows, with their labels. A table that looks up these labels scores higher than any
model, including the published one and ours. A score under this protocol does not show how good a model is.

Shapes: W windows, T = 20 touchpoints of each, B touchpoints of the test windows, C channels.
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
    """Train MTORL and build a lookup table with the authors' protocol, and evaluate both.

    Returns:
        ``lookup table`` and ``mtorl``: the ``policy_ctr`` and the ``metrics`` (`head_metrics.evaluate`) of each.
        ``original_ctr``: share of test touchpoints with a click. ``overlap``: share of test touchpoints that are also
        in a training window. The result is empty if no user has enough touchpoints for a window.
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
    """Return the click-through rate of a policy as the authors of MTORL compute it ("policy CTR").

    They count the clicks on rows whose predicted channel is the logged channel, and divide them by the number of all
    selected rows. This rate is biased: it also rises if the policy only guesses the logged channel more often.
    """
    return float(((choice_B == channel_B) * click_B)[selected_B].mean())


def _look_up(channel_P: Ints, click_P: Floats, trained_P: Bools, test_B: Ints, channels: int) -> tuple[Floats, Floats]:
    """Predict test touchpoints with a lookup table.

    For a touchpoint that is also in the training windows, the table returns its label. For all others, it returns the
    frequencies of the channels and the mean click rate in training.
    """
    share_C = np.bincount(channel_P[trained_P], minlength=channels) / trained_P.sum()
    probs_BC = np.where(trained_P[test_B, None], np.eye(channels)[channel_P[test_B]], share_C)
    click_B = np.where(trained_P[test_B], click_P[test_B], click_P[trained_P].mean())
    return probs_BC, np.repeat(click_B[:, None], channels, axis=1)


def _learn(
    table: WindowTable, train_WT: Ints, val_WT: Ints, test_B: Ints, config: TrainConfig
) -> tuple[Floats, Floats]:
    """Train MTORL on the training windows, and predict each test touchpoint.

    The prediction for a touchpoint uses the window that ends with it, of at most `LENGTH` tokens.
    """
    from mtorl.network.ensemble import train_ensemble
    from mtorl.window.loader import EncodedWindows, TrainingWindows

    # Use the click as the reward label, because the authors' code does.
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
