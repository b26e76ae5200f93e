"""Computes propensities, which are the probabilities with which the logged channels were chosen.

If the log does not contain propensities, a simple model estimates them:

    channel-frequency   P(a): the channel does not depend on the user or the history, as
                        `mtorl.comparison.independence` tests
    markov              P(a | previous a): users tend to stay on a channel

The models are fitted on training users only, so that test rows do not influence their own propensities.

Shapes: B rows, C channels.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mtorl.arrays import Floats
from mtorl.log.dataset import DatasetSpec
from mtorl.log.messages import BAD_PROPENSITY

# Lower limit of estimated propensities, so that no importance weight exceeds 50.
FLOOR = 0.02
# Least effective sample size of a policy value, as a fraction of the rows.
MIN_ESS_SHARE = 0.1
# Avoids probabilities of 0.
_SMOOTHING = 1.0


def logged_propensity(windows: pd.DataFrame, spec: DatasetSpec) -> Floats:
    """Return the probability with which the logged channel of each row was chosen, in (0, 1].

    Raises:
        ValueError: a propensity is missing or outside (0, 1], a channel is unknown, or there are no training rows.
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
    # At the start of a journey, the code `channels` means no previous channel.
    if spec.propensity == "markov":
        follows_B = windows["step"].to_numpy() > 0
        before_B[follows_B] = channel_B[np.flatnonzero(follows_B) - 1]
    counts = np.full((channels + 1, channels), _SMOOTHING)
    np.add.at(counts, (before_B[train_B], channel_B[train_B]), 1.0)
    table: Floats = np.maximum(counts / counts.sum(axis=1, keepdims=True), FLOOR)
    return table[before_B, channel_B]


def channel_means(rows: pd.DataFrame, spec: DatasetSpec, value_B: ArrayLike) -> Floats | None:
    """Estimate, for each channel, the mean value if this channel were always chosen (SNIPS).

    Our own decisions are left out, because the log contains only those that were exposed. Returns None if a channel
    has too small an effective sample size.
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
