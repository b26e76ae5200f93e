"""Splits users into training, validation and test data, by hashes of their ids.

A user's split never changes, so a retrained model is never tested on users of an earlier training.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Fingerprints = NDArray[np.uint64]
"""Hashes of user ids, one per user, in ascending order."""

SHARES = (("train", 0.7), ("val", 0.1), ("test", 0.2))


def hash_ids(ids: Iterable[str], purpose: str) -> NDArray[np.uint64]:
    """Return an eight-byte hash of each id (BLAKE2b), as an integer.

    Different purposes give independent hashes. Only the first 16 bytes of `purpose` count.
    """
    person = purpose.encode()[:16]
    digests = b"".join(hashlib.blake2b(str(i).encode(), digest_size=8, person=person).digest() for i in ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def fractions_of(ids: Iterable[str], purpose: str) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each id, from a hash."""
    return (hash_ids(ids, purpose) >> np.uint64(11)).astype(np.float64) / 2.0**53


def split_of(user_ids: pd.Series | Iterable[str]) -> NDArray[np.str_]:
    """Return the split of each user: "train" (70 % of all users), "val" (10 %) or "test" (20 %)."""
    codes, users = pd.factorize(pd.Series(user_ids, dtype=object))
    edges = np.cumsum([share for _, share in SHARES])[:-1]
    names = np.array([name for name, _ in SHARES])
    return names[np.searchsorted(edges, fractions_of(users, "split"), side="right")][codes]


def folds_of(user_ids: pd.Series | Iterable[str], folds: int) -> NDArray[np.int64]:
    """Return the cross-validation fold of each user, from 0 to folds - 1, independent of the user's split."""
    codes, users = pd.factorize(pd.Series(user_ids, dtype=object))
    return (fractions_of(users, "fold") * folds).astype(np.int64)[codes]


def unit_order(user_ids: Iterable[str], seed: int) -> list[str]:
    """Return the users in a random order, which depends only on their ids and the seed."""
    users = np.array(list(user_ids), dtype=object)
    return list(users[np.argsort(fractions_of(users, f"order-{seed}"), kind="stable")])


def tile_ends(step: ArrayLike, n: int) -> NDArray[np.bool_]:
    """Divide each journey into windows of n steps, and return a mask of the rows at which windows end.

    Only the first window of a journey may be shorter.
    """
    steps = np.asarray(step, dtype=np.int64)
    lengths = np.diff(np.flatnonzero(steps == 0), append=len(steps))
    steps_left = np.repeat(lengths, lengths) - 1 - steps
    return np.asarray(steps_left % n == 0)


def fingerprints(user_ids: Iterable[str]) -> Fingerprints:
    """Return the fingerprints of all distinct users, in ascending order."""
    return np.unique(_fingerprint_of_each(user_ids))


def are_among(user_ids: Iterable[str], trained: Fingerprints) -> NDArray[np.bool_]:
    """Return a mask of the users whose fingerprints are in `trained`."""
    return np.isin(_fingerprint_of_each(user_ids), trained)


def _fingerprint_of_each(user_ids: Iterable[str]) -> Fingerprints:
    return hash_ids(user_ids, "trained").byteswap()  # the byte order that artifacts use
