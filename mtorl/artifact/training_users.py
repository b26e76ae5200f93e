"""Who had a part in a model: eight bytes for each user id, to tell whether a log has users that it has seen.

A hash is no secret: whoever knows the ids can look them up. With a million known users, one stranger in 10^13 or so is
taken for one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Fingerprints = NDArray[np.uint64]


def fingerprints(user_ids: Iterable[str]) -> Fingerprints:
    """One number for each distinct user, in ascending order."""
    return np.unique(_each(user_ids))


def are_among(user_ids: Iterable[str], known: Fingerprints) -> NDArray[np.bool_]:
    """Which of the users are known."""
    return np.isin(_each(user_ids), known)


def _each(user_ids: Iterable[str]) -> Fingerprints:
    digests = b"".join(hashlib.blake2b(str(u).encode(), digest_size=8, person=b"trained").digest() for u in user_ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
