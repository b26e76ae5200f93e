"""Returns or estimates propensities, which are the probabilities with which the logged channels were chosen.

    propensity_B = logged_propensity(table.rows, spec)
    mean_C = channel_means(rows, spec, gain_B)      # value of always choosing one channel, for each channel

The data set description names the source of the propensities. "logged" means a column of the log. Otherwise, they are
estimated by a simple model of the logging policy:

    channel-frequency   P(a): the channel does not depend on the state (a log of random exposures);
                        `mtorl.comparison.independence` tests this assumption
    markov              P(a | previous a): users tend to stay on a channel

Each model is estimated on training users only, so that test rows do not influence their own propensities. If the
logging policy depended on more than the model assumes, off-policy values are biased, and the mean importance weight
differs from 1.

Shapes: B rows, C channels.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mtorl.arrays import Floats
from mtorl.log.dataset import DatasetSpec
from mtorl.log.messages import BAD_PROPENSITY

# An estimated propensity is at least this, so that no importance weight exceeds 50.
FLOOR = 0.02
# The value of a policy is used only if its effective sample size is at least this fraction of the number of rows.
MIN_ESS_SHARE = 0.1
# Added to the count of each channel, so that no estimated probability is 0.
_SMOOTHING = 1.0


def logged_propensity(windows: pd.DataFrame, spec: DatasetSpec) -> Floats:
    """Return the probability with which the logged channel of each row was chosen, in (0, 1].

    Args:
        windows: Touchpoints in the order of `WindowTable.rows`, with the column `propensity` if the log has it.

    Raises:
        ValueError: a logged propensity is missing or outside (0, 1], a channel is unknown, or no row is in training.
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
    # The first touchpoint of a journey has no previous channel, so it keeps the code `channels`, which means no
    # channel.
    if spec.propensity == "markov":
        follows_B = windows["step"].to_numpy() > 0
        before_B[follows_B] = channel_B[np.flatnonzero(follows_B) - 1]
    counts = np.full((channels + 1, channels), _SMOOTHING)
    np.add.at(counts, (before_B[train_B], channel_B[train_B]), 1.0)
    table: Floats = np.maximum(counts / counts.sum(axis=1, keepdims=True), FLOOR)
    return table[before_B, channel_B]


def channel_means(rows: pd.DataFrame, spec: DatasetSpec, value_B: ArrayLike) -> Floats | None:
    """Return, for each channel, the mean value of a policy that always chooses this channel (SNIPS estimate).

    Returns None if the effective sample size of a channel is too small.

    Args:
        rows: Touchpoints, as for `logged_propensity`. Touchpoints of our own decisions are left out, because they exist
            only for exposed decisions, and the exposure depends on the channel.
        value_B: Value of each row, such as its gain.
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
