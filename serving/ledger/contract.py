"""What every ledger promises, whatever keeps its accounts.

1.  spent + reserved <= limit in every account, at every moment: under races, crashes and retries. (A limit that is
    lowered below what is already committed takes nothing back; it refuses everything new.)
2.  An exposure without a reservation costs nothing here: who gets False, or no answer, must not expose.
3.  Every call may be repeated: a reservation's id decides, and the second call changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class LedgerUnavailable(RuntimeError):
    """The ledger did not answer. Whether the call took effect is unknown; `cancel` makes sure that it has none."""


class UnknownReservation(KeyError):
    """Settled without ever being reserved: there is no account to charge."""

    def __str__(self) -> str:
        return f"no reservation {self.args[0]!r}"


@dataclass(frozen=True)
class Account:
    """Money of one arm for a campaign and a channel; "*" matches any. A reservation draws on all that match."""

    arm: str
    campaign: str
    channel: str
    limit: float

    def __post_init__(self) -> None:
        for name in ("arm", "campaign", "channel"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name}: expected text, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Balance:
    """Where an account stands. `excess` was reported beyond what was reserved: it is shown, never charged."""

    arm: str
    campaign: str
    channel: str
    limit: float
    spent: float
    reserved: float
    excess: float


@dataclass(frozen=True)
class Settlement:
    """What became of a reported cost: charged up to the reserved amount, the rest is excess."""

    charged: float
    excess: float


class Ledger(Protocol):
    """Calls block; any of them may raise LedgerUnavailable."""

    def define(self, accounts: Iterable[Account]) -> None:
        """Set the accounts in force. What is spent and reserved stays; an account left out sleeps until named again."""

    def reserve(self, reservation_id: str, arm: str, campaign: str, channel: str, amount: float) -> bool:
        """Set money aside in all matching accounts, or in none of them.

        False: an account has too little left, no account matches, or the id was cancelled before.
        """

    def settle(self, reservation_id: str, actual: float) -> Settlement:
        """Turn a reservation into spend. Raises UnknownReservation for an id that was never reserved."""

    def cancel(self, reservation_id: str) -> None:
        """Give the money back. An id that is not reserved yet can't be from now on: a late `reserve` takes nothing."""

    def balances(self) -> list[Balance]:
        """All accounts in force."""

    def open_reservations(self) -> list[str]:
        """Ids that are neither settled nor cancelled."""
