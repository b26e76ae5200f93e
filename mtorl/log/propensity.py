"""The probability with which the logging policy chose the logged channel.

    propensity_B = logged_propensity(table.rows, spec)
    mean_C = channel_means(rows, spec, gain_B)      # of the policies that always take one channel

"logged": the log recorded its propensities. Otherwise the data set description names the simplest model of how channels
were chosen:

    channel-frequency   P(a): the channel does not depend on the state (a log of random exposures);
                        `mtorl.comparison.independence` tests that claim
    markov              P(a | previous a): users tend to stay on a channel

Both are estimated on training users only, so that test rows do not confirm themselves. If the true logging policy used
more of the state, off-policy values are biased; the mean weight in `importance_weights.py` then strays from 1.

Shapes: B rows, C channels.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mtorl.arrays import Floats
from mtorl.log.dataset import DatasetSpec
from mtorl.log.messages import BAD_PROPENSITY

FLOOR = 0.02  # lowest estimated propensity: no row gets a weight above fifty
MIN_ESS_SHARE = 0.1  # smallest effective sample, as a share of the rows, with which a policy's value is used
_SMOOTHING = 1.0  # pseudo-count of every channel


def logged_propensity(windows: pd.DataFrame, spec: DatasetSpec) -> Floats:
    """Propensity of the logged channel of each row, in (0, 1].

    The windows are touchpoints in the order of `WindowTable.rows`, with a propensity if the log has it.

    ValueError: a logged propensity is missing or outside (0, 1], a channel is unknown, or no rows are for training.
    """
    if spec.propensity == "logged":
        propensity_B: Floats = windows["propensity"].to_numpy(dtype=np.float64)
        bad_B = ~((propensity_B > 0) & (propensity_B <= 1))
        if bad_B.any():
            row = int(bad_B.argmax())
            raise ValueError(BAD_PROPENSITY(rows=int(bad_B.sum()), value=propensity_B[row], row=row))
        return propensity_B

    channel_B = pd.Index(spec.channels).get_indexer(pd.Index(windows["channel"]))
    if (channel_B < 0).any():
        raise ValueError(f"channel: unknown channel {windows['channel'].iloc[int(channel_B.argmin())]!r}")
    train_B = (windows["split"] == "train").to_numpy()
    if not train_B.any():
        raise ValueError("propensity: no training rows to estimate it from")
    channels = len(spec.channels)
    before_B = np.full(len(windows), channels, dtype=np.int64)
    if spec.propensity == "markov":  # a user's later journeys start without a previous channel, as the first one does
        follows_B = windows["step"].to_numpy() > 0
        before_B[follows_B] = channel_B[np.flatnonzero(follows_B) - 1]
    counts = np.full((channels + 1, channels), _SMOOTHING)
    np.add.at(counts, (before_B[train_B], channel_B[train_B]), 1.0)
    table: Floats = np.maximum(counts / counts.sum(axis=1, keepdims=True), FLOOR)
    return table[before_B, channel_B]


def channel_means(rows: pd.DataFrame, spec: DatasetSpec, value_B: ArrayLike) -> Floats | None:
    """Mean of a value if each channel were always taken (SNIPS), from the log's own rows; None if it can't tell.

    Args:
        rows: As of `logged_propensity`. Own decisions do not count: an exposure depends on the channel that was drawn.
    """
    own_B = rows["collected"].to_numpy(dtype=np.bool_) if "collected" in rows else np.zeros(len(rows), dtype=np.bool_)
    propensity_B = logged_propensity(rows.assign(propensity=rows["propensity"].mask(own_B, 1.0)), spec)
    weight_B = np.where(own_B, 0.0, 1.0 / propensity_B)
    channel_B, channels = pd.Index(spec.channels).get_indexer(pd.Index(rows["channel"])), len(spec.channels)
    weight_C, square_C = (np.bincount(channel_B, weight_B**power, channels) for power in (1, 2))
    value_C = np.bincount(channel_B, weight_B * np.asarray(value_B, dtype=np.float64), channels)
    if not (weight_C.all() and (weight_C**2 >= MIN_ESS_SHARE * np.count_nonzero(weight_B) * square_C).all()):
        return None
    mean_C: Floats = value_C / weight_C
    return mean_C
