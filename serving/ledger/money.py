"""Exact money: whole nano-units of the currency, because sums of floats drift and a cap must not.

A reservation rounds up and a limit rounds down, so rounding can never let spend exceed what was granted.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from math import isfinite

NANO = 10**9
LARGEST = 9e9  # currency units; in nano-units this still fits SQLite's 64 bits
MOST = 2**63 - 1  # nano-units: where sums of costs beyond the cap stop counting


def limit(amount: float, largest: float = LARGEST) -> int:
    """A limit in nano-units."""
    return _whole("limit", amount, ROUND_FLOOR, largest)


def reservation(amount: float, largest: float = LARGEST) -> int:
    """An amount to reserve, in nano-units."""
    return _whole("amount", amount, ROUND_CEILING, largest)


def cost(amount: float) -> int:
    """A reported cost in nano-units."""
    return _whole("actual", amount, ROUND_HALF_EVEN, LARGEST)


def units(nano: int) -> float:
    """Back to currency units."""
    return nano / NANO


def _whole(name: str, amount: float, rounding: str, largest: float) -> int:
    if not isfinite(amount) or not 0 <= amount <= largest:
        raise ValueError(f"{name}: this ledger takes a number between 0 and {largest:g}, got {amount!r}")
    # By way of the shortest decimal: 0.07 * 1e9 is a float just above 70,000,000.
    return int(Decimal(str(float(amount))).scaleb(9).to_integral_value(rounding))
