"""Assigns each unit (a user) permanently to an arm, and makes the random draw of each decision.

Assignment and draw are hashes, so every router computes the same values, also after a restart.

    point     = first 53 bits of blake2b-64("4:salt,6:user42,") / 2^53           `uniform`
    arm       = the arm with the smallest -ln(1 - point(arm)) / share(arm)       `assign`
    u         = point of all fields that identify one request                    `draw`

The hashed parts are netstrings (`<bytes>:<text>,`), so that ("ab", "c") and ("a", "bc") are different inputs, and any
language can reproduce the numbers. The tests contain golden values. A float represents 53 bits exactly. With all 64
bits, some values would round up to 1.0, which is outside the interval.

For each unit, every arm has its own point. It gives an exponential waiting time with the arm's share as its rate, and
the arm with the shortest time is chosen (weighted rendezvous hashing). An arm's probability of being chosen equals its
share, for any order of the arms. If shares change, a unit can only move to an arm whose share grew by a larger factor
than that of its own arm. If a stage grows, the fewest possible units move, from the incumbent to challengers. If the
shares change from a to b, the fraction of units that stay is

    sum over i of  1 / sum over j of  max(a_j / a_i, b_j / b_i).

No stateless rule keeps more units for one pair of shares without keeping fewer for another (Moulton and Jiang,
"Maximally consistent sampling and the Jaccard index of probability distributions", ICDM 2018, arXiv:1809.04052).
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal


def uniform(*parts: str) -> float:
    """Return a number in [0, 1) that looks random, but is a hash of `parts`."""
    return _point((), *parts)


def _point(key: tuple[str, ...], *parts: str) -> float:
    """Return `uniform(*key, *parts)`, with a cached hash of `key`, which all users of an experiment share."""
    whole = _hashed(key).copy()
    whole.update(_netstrings(parts))
    return (int.from_bytes(whole.digest(), "big") >> 11) / (1 << 53)


@lru_cache(1024)
def _hashed(parts: tuple[str, ...]) -> hashlib.blake2b:
    return hashlib.blake2b(_netstrings(parts), digest_size=8)


def _netstrings(parts: Iterable[str]) -> bytes:
    return "".join(f"{len(part.encode())}:{part}," for part in parts).encode()


def assign(key: tuple[str, ...], unit: str, shares: Mapping[str, float]) -> str:
    """Return the arm of a unit (a user), chosen at random in proportion to `shares`.

    Args:
        key: Name of the assignment. Different keys give independent assignments.
        shares: Share of each arm, by the name of the arm.

    Raises:
        ValueError: a share is negative, or all shares are 0.
    """
    total = sum(shares.values())
    if not 0 < total < math.inf or min(shares.values()) < 0:
        raise ValueError(f"shares must be at least 0 and not all 0, got {dict(shares)}")
    rings = [(-math.log1p(-_point((*key, arm), unit)) / share, arm) for arm, share in shares.items() if share > 0]
    return min(rings)[1]


def draw(
    experiment: str, salt: str, user_id: str, campaign_id: str, request: str, what: Literal["draw", "explore"] = "draw"
) -> float:
    """Return the random number in [0, 1) for one decision, as a hash of the arguments.

    Args:
        request: Request id of the caller or, if there is none, the id of the decision.
        what: "draw" for the choice of the channel; "explore" for exploration, which needs its own number.
    """
    return _point((what, experiment, salt), user_id, campaign_id, request)
