"""Which users a model was trained on: eight bytes for each user id, to tell whether a log has users that it has seen.

The hash does not hide the ids: whoever knows an id can check whether it is among them. With a million training users,
about one new user in 10^13 is taken for one of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mtorl.log.hashing import hash_ids

Fingerprints = NDArray[np.uint64]


def fingerprints(user_ids: Iterable[str]) -> Fingerprints:
    """One number for each distinct user, in ascending order."""
    return np.unique(_each(user_ids))


def are_among(user_ids: Iterable[str], trained: Fingerprints) -> NDArray[np.bool_]:
    """Which of the users are among those that a model was trained on."""
    return np.isin(_each(user_ids), trained)


def _each(user_ids: Iterable[str]) -> Fingerprints:
    return hash_ids(user_ids, "trained").byteswap()  # artifacts hold the bytes in this order
