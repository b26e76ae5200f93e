"""Converts amounts of money to integers, in nano-units of the currency (10^-9), so that their sums are exact.

Reserved amounts are rounded up and limits are rounded down, so that spending stays below the limit.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from math import isfinite

NANO = 10**9
LARGEST = 9e9  # currency units; fits into SQLite's 64-bit integers as nano-units
MOST = 2**63 - 1  # largest sum of excess costs, nano-units


def limit(amount: float, largest: float = LARGEST) -> int:
    """Convert a limit to nano-units, rounded down."""
    return _whole("limit", amount, ROUND_FLOOR, largest)


def reservation(amount: float, largest: float = LARGEST) -> int:
    """Convert an amount to reserve to nano-units, rounded up."""
    return _whole("amount", amount, ROUND_CEILING, largest)


def cost(amount: float) -> int:
    """Convert a reported cost to nano-units, rounded to the nearest."""
    return _whole("actual", amount, ROUND_HALF_EVEN, LARGEST)


def units(nano: int) -> float:
    """Convert nano-units to currency units."""
    return nano / NANO


def _whole(name: str, amount: float, rounding: str, largest: float) -> int:
    if not isfinite(amount) or not 0 <= amount <= largest:
        raise ValueError(f"{name}: this ledger accepts a number between 0 and {largest:g}, got {amount!r}")
    # Round the shortest decimal, because 0.07 * 1e9 is slightly above 70,000,000.
    return int(Decimal(str(float(amount))).scaleb(9).to_integral_value(rounding))
