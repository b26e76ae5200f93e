"""What every ledger promises, whatever stores its accounts.

1.  spent + reserved <= limit in every account, at every moment: under races, crashes and retries. (When a limit is
    lowered below what is already spent and reserved, nothing is taken back, but every new reservation is refused.)
2.  An exposure needs a reservation: a caller that gets False, or no answer, must not expose.
3.  Every call may be repeated: the second call with a reservation's id changes nothing. A reservation that was settled
    is remembered for SETTLED_SECONDS. One that was cancelled or has expired may still turn out to have cost something,
    and is remembered for RETENTION_SECONDS. After that, `reserve` must not be repeated, and a cost is unknown.
4.  The limit of an account with a period applies to each period separately. A reservation belongs to the period of its
    creation and is settled there, also after the period has ended; what a period leaves unspent is not carried over.
    The books of each period are kept, so a clock that is wrong, or jumps back, still counts what was spent then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

from mtorl.experiment.experiment import Period

PERIODS: tuple[Period, ...] = get_args(Period)
_PERIOD_SECONDS = {"day": 86_400, "hour": 3_600}

SETTLED_SECONDS = 86_400.0
RETENTION_SECONDS = 7 * 86_400.0


class LedgerUnavailable(RuntimeError):
    """The ledger did not answer. Whether the call took effect is unknown; `cancel` makes sure that it has none."""


class AlreadyReserved(RuntimeError):
    """Another reservation pays for the same request already: this caller must not expose as well."""


class UnknownReservation(KeyError):
    """Settled without ever being reserved: there is no account to charge."""

    def __str__(self) -> str:
        return f"no reservation {self.args[0]!r}"


@dataclass(frozen=True)
class Account:
    """Money of one arm for a campaign and a channel; "*" matches any. A reservation draws on all that match.

    The same campaign and channel may have an account for each period: 1000 in all, and at most 100 a day.
    """

    arm: str
    campaign: str
    channel: str
    limit: float
    period: Period = "total"

    def __post_init__(self) -> None:
        for name in ("arm", "campaign", "channel"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name}: expected text, got {getattr(self, name)!r}")
        if self.period not in PERIODS:
            raise ValueError(f"period: {self.period!r} is not one of {', '.join(PERIODS)}")


@dataclass(frozen=True)
class Balance:
    """State of an account in the current period. `excess` is cost that was reported, but never reserved."""

    arm: str
    campaign: str
    channel: str
    limit: float
    spent: float
    reserved: float
    excess: float
    period: Period = "total"
    start: int = 0  # of the period, seconds since 1970; 0 for "total"


@dataclass(frozen=True)
class Wanted:
    """A reservation that is asked for: money of one arm for a campaign and a channel, and the request it is for."""

    reservation_id: str
    arm: str
    campaign: str
    channel: str
    amount: float
    request: str | None = None


@dataclass(frozen=True)
class Settlement:
    """What became of a reported cost: charged up to the reserved amount, the rest is excess."""

    charged: float
    excess: float


class Ledger(Protocol):
    """Calls block; any of them may raise LedgerUnavailable.

    Attributes:
        shared: Whether routers on other machines may hold reservations in it, too.
    """

    shared: bool

    def define(self, accounts: Iterable[Account]) -> None:
        """Set the accounts in force. Spent and reserved amounts stay, also those of accounts that are left out now."""

    def reserve(
        self, reservation_id: str, arm: str, campaign: str, channel: str, amount: float, request: str | None = None
    ) -> bool:
        """Set money aside in all matching accounts, or in none of them.

        False: an account has too little left, no account matches, the id was cancelled or has expired, or it was used
        with another scope or amount. Of the reservations for one `request`, at most one is open or has cost something:
        another id raises AlreadyReserved. After one was cancelled or has expired, the next may be made.
        """

    def reserve_all(self, wanted: Sequence[Wanted]) -> list[bool | Exception]:
        """`reserve` for each, in turn and independently of the others, in one round trip or sync for all.

        The error of a single reservation is returned in its place; an error that concerns all is raised.
        """

    def settle(self, reservation_id: str, actual: float) -> Settlement:
        """Turn a reservation into spend. Raises UnknownReservation for an id that was never reserved.

        A cost that is reported late was spent all the same. After the reservation has expired it is charged as far as
        its accounts have room left, after a cancellation it is all excess.
        """

    def cancel(self, reservation_id: str) -> None:
        """Give the money back. If the id is not reserved yet, a `reserve` that comes later is refused."""

    def expire(self, ttl: float) -> int:
        """Give back what has been open for `ttl` seconds or longer; returns how many reservations that were.

        Reservations that were finished long ago are forgotten; what they cost stays in the accounts.
        """

    def balances(self) -> list[Balance]:
        """All accounts in force, in the current period."""

    def memory(self) -> tuple[int, str]:
        """What the pacing controller remembers, and its version; (0, "") before there is anything."""

    def remember(self, version: int, text: str) -> bool:
        """Replace it if it still has that version; False if another controller has replaced it since."""

    def open_reservations(self) -> list[str]:
        """Ids that are neither finished nor expired."""

    def close(self) -> None:
        """Close the connection; the next call opens it again."""


def period_start(period: Period, now: float) -> int:
    """When the period that holds at a time began, in seconds since 1970; 0 for "total". Days and hours are UTC's."""
    length = _PERIOD_SECONDS.get(period)
    return math.floor(now / length) * length if length else 0


def checked_ttl(seconds: float) -> float:
    """An age in seconds; raises ValueError if it is none."""
    if not 0 <= seconds < math.inf:
        raise ValueError(f"ttl: expected seconds of at least 0, got {seconds!r}")
    return seconds
