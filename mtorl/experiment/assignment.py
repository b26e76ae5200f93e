"""Sticky assignment: a salted hash sends a unit to the same arm on every replica and after every restart.

    point     = first 53 bits of blake2b-64("4:salt,6:user42,") / 2^53           `bucket`, `uniform`
    arm       = the arm in whose share of [0, 1) the point falls                 `assign`

No state, no coordination. The parts are hashed as netstrings (`<bytes>:<text>,`), so ("ab", "c") and ("a", "bc") are
different inputs and any language can reproduce the numbers; the tests hold golden values. 53 bits, because that is what
a float keeps exactly: all 64 would now and then round up to 1.0, which is outside the interval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def uniform(*parts: str) -> float:
    """A reproducible draw from [0, 1): equal parts give equal numbers, different ones independent numbers."""
    text = "".join(f"{len(part.encode())}:{part}," for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def bucket(salt: str, unit: str) -> float:
    """The unit's point in [0, 1). With another salt, it is independent of this one."""
    return uniform(salt, unit)


def assign(salt: str, unit: str, weights: Mapping[str, float]) -> str:
    """The arm of a unit.

    Args:
        salt: The experiment's salt.
        unit: What is randomised, for instance a user id.
        weights: Share of each arm, on any positive scale. Their order counts: shares lie side by side in it.

    Raises:
        ValueError: a weight is negative or not finite, or all are zero.
    """
    total = sum(weights.values())
    if not 0 < total < float("inf") or min(weights.values()) < 0:
        raise ValueError(f"weights must be at least 0 and not all 0, got {dict(weights)}")
    point = bucket(salt, unit) * total
    arm, reached = "", 0.0
    for name, weight in weights.items():
        if weight > 0:
            arm, reached = name, reached + weight
            if point < reached:
                return arm
    return arm  # the sum was rounded, and the point lies just beyond the last share
