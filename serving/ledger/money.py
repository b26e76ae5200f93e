"""Converts money to whole nano-units of the currency, because sums of floats drift and a cap must be exact.

A reservation is rounded up and a limit down, so rounding never lets spend exceed the limit.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from math import isfinite

NANO = 10**9
LARGEST = 9e9  # largest amount, currency units: in nano-units, it fits SQLite's 64-bit integers
MOST = 2**63 - 1  # nano-units; upper limit of a sum of excess


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
    """Nano-units as currency units."""
    return nano / NANO


def _whole(name: str, amount: float, rounding: str, largest: float) -> int:
    if not isfinite(amount) or not 0 <= amount <= largest:
        raise ValueError(f"{name}: this ledger accepts a number between 0 and {largest:g}, got {amount!r}")
    # The shortest decimal is exact, but 0.07 * 1e9 is a float just above 70,000,000.
    return int(Decimal(str(float(amount))).scaleb(9).to_integral_value(rounding))
