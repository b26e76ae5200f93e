"""The probability with which the logging policy chose the logged channel.

    propensity_B = logged_propensity(table.rows, spec)

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

from mtorl.arrays import Floats
from mtorl.log.dataset import DatasetSpec

FLOOR = 0.02  # lowest estimated propensity: no row gets a weight above fifty
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
            raise ValueError(
                f"propensity: {bad_B.sum()} rows are missing or outside (0, 1], the first is {propensity_B[row]} in "
                f"row {row}; if the log does not know them, set `propensity` in the data set description"
            )
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
