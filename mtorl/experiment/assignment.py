"""Sticky assignment, and the draw of each decision: hashes that every replica computes alike, after every restart.

    point     = first 53 bits of blake2b-64("4:salt,6:user42,") / 2^53           `uniform`
    arm       = the one with the smallest -ln(1 - point(arm)) / share(arm)       `assign`
    u         = point of all that identifies one request                         `draw`

The parts are hashed as netstrings (`<bytes>:<text>,`), so ("ab", "c") and ("a", "bc") are different inputs and any
language can reproduce the numbers; the tests hold golden values. 53 bits, because that is what a float keeps exactly:
all 64 would now and then round up to 1.0, which is outside the interval.

Each arm has a point of its own for the unit, and so an exponential clock whose rate is the arm's share. The clock that
rings first wins: with a probability that is exactly the share, whatever the order of the arms (weighted rendezvous
hashing). When shares change, a unit moves only to an arm whose share grew by a larger factor. When a stage grows, just
as many units move as must, from the incumbent to challengers. For any shares a and b the part of the units that stays
is

    sum over i of  1 / sum over j of  max(a_j / a_i, b_j / b_i),

and no rule without memory keeps more for one pair without keeping less for another (Moulton and Jiang, "Maximally
consistent sampling and the Jaccard index of probability distributions", ICDM 2018, arXiv:1809.04052).
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal


def uniform(*parts: str) -> float:
    """A reproducible draw from [0, 1): equal parts give equal numbers, different ones independent numbers."""
    return _point((), *parts)


def _point(key: tuple[str, ...], *parts: str) -> float:
    """`uniform` of all; the key is hashed once, and not for each unit."""
    whole = _hashed(key).copy()
    whole.update(_netstrings(parts))
    return (int.from_bytes(whole.digest(), "big") >> 11) / (1 << 53)


@lru_cache(1024)
def _hashed(parts: tuple[str, ...]) -> hashlib.blake2b:
    return hashlib.blake2b(_netstrings(parts), digest_size=8)


def _netstrings(parts: Iterable[str]) -> bytes:
    return "".join(f"{len(part.encode())}:{part}," for part in parts).encode()


def assign(key: tuple[str, ...], unit: str, shares: Mapping[str, float]) -> str:
    """The arm of a unit, by its share on any positive scale.

    The key identifies the assignment, such as an experiment's name and salt; different keys are independent.
    """
    total = sum(shares.values())
    if not 0 < total < math.inf or min(shares.values()) < 0:
        raise ValueError(f"shares must be at least 0 and not all 0, got {dict(shares)}")
    rings = [(-math.log1p(-_point((*key, arm), unit)) / share, arm) for arm, share in shares.items() if share > 0]
    return min(rings)[1]


def draw(
    experiment: str, salt: str, user_id: str, campaign_id: str, request: str, what: Literal["draw", "explore"] = "draw"
) -> float:
    """The number in [0, 1) with which a decision's channel is drawn or, for `explore`, whether it is explored.

    All arguments are fields of its record; `request` is the caller's id or, without one, the decision's. A caller does
    not know the salt, so it can't search for a request that leads to the channel it wants.
    """
    return _point((what, experiment, salt), user_id, campaign_id, request)
