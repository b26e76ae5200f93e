"""The authors' own protocol, kept to compare with their figures, and what it measures: overlap.

4,000 windows of 20 touchpoints are drawn with replacement from random places of the histories, *then* dealt out to
training (80 %), validation and test (10 % each). Most touchpoints of the test windows are in training windows too, with
their labels. A table that looks labels up shows how far that goes: it scores higher than any model, published or ours.
Nothing here says how good a model is.

Shapes: W windows, T = 20 touchpoints of each, B touchpoints of the test windows, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtorl.decision import Floats
from mtorl.evaluation import authors_policy_ctr, evaluate
from mtorl.policy_value import SELECTED
from mtorl.table import WindowTable

WINDOWS, LENGTH = 4000, 20


def legacy(table: WindowTable, seed: int) -> dict[str, Any]:
    """Score a lookup table under the authors' protocol.

    Args:
        table: All rows.
        seed: Of the draw.

    Returns:
        ``metrics`` (see `mtorl.evaluation.evaluate`), ``policy_ctr``, ``original_ctr``, ``overlap`` (share of the
        test's touchpoints that are in a training window); empty if no user has enough touchpoints.
    """
    rows_WT = _draw(table, seed)
    if not len(rows_WT):
        return {}
    train_WT, test_WT = rows_WT[: int(0.8 * WINDOWS)], rows_WT[int(0.9 * WINDOWS) :]
    channels = table.spec.channels
    channel_P = np.array([channels.index(name) for name in table.rows["channel"]])
    click_P = table.rows["click"].to_numpy(float)
    known_P = np.zeros(len(channel_P), dtype=np.bool_)
    known_P[train_WT.ravel()] = True
    share_C = np.bincount(channel_P[known_P], minlength=len(channels)) / known_P.sum()
    test_B = test_WT.ravel()
    looked_up_B = known_P[test_B]
    # What it has seen it repeats; of the rest it knows the averages.
    probs_BC = np.where(looked_up_B[:, None], np.eye(len(channels))[channel_P[test_B]], share_C)
    click_B = np.where(looked_up_B, click_P[test_B], click_P[known_P].mean())
    metrics = evaluate(
        np.log(np.clip(probs_BC, 1e-6, 1.0)),
        np.repeat(click_B[:, None], len(channels), axis=1),
        channel_P[test_B],
        click_P[test_B],
        table.rows["user_id"].to_numpy()[test_B],
        seed,
        positive_B=click_P[test_B] > 0,
    )
    selected_B = _top_of_each_step(click_B.reshape(test_WT.shape), seed).ravel()
    return {
        "metrics": metrics,
        "policy_ctr": authors_policy_ctr(selected_B, probs_BC.argmax(axis=1), channel_P[test_B], click_P[test_B]),
        "original_ctr": float(click_P[test_B].mean()),
        "overlap": float(looked_up_B.mean()),
    }


def _draw(table: WindowTable, seed: int) -> NDArray[np.int64]:
    """Rows of the table in each window."""
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
    rows_WT: NDArray[np.int64] = start_W[:, None] + np.arange(LENGTH)
    return rows_WT


def _top_of_each_step(score_WT: Floats, seed: int) -> NDArray[np.bool_]:
    order_WT = np.lexsort((np.random.default_rng(seed).random(score_WT.shape), -score_WT), axis=0)
    chosen_WT = np.zeros(score_WT.shape, dtype=np.bool_)
    np.put_along_axis(chosen_WT, order_WT[: round(SELECTED * len(score_WT))], True, axis=0)
    return chosen_WT
