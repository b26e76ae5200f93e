"""One hash for all ids: the same on every machine and in every run, and independent for each purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def hash_ids(ids: Iterable[str], purpose: str) -> NDArray[np.uint64]:
    """Eight bytes of BLAKE2b for each id.

    Args:
        ids: The ids.
        purpose: Hashes for different purposes are independent of each other. Only its first 16 bytes count.
    """
    person = purpose.encode()[:16]
    digests = b"".join(hashlib.blake2b(str(i).encode(), digest_size=8, person=person).digest() for i in ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
