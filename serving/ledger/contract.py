"""The interface of a ledger, and the promises that every ledger keeps.

1.  In every account, spent + reserved <= limit at every moment, despite races, crashes and retries. If the limit of a
    whole budget is lowered below its spent and reserved amounts, the amounts stay, and new reservations above 0 fail.
2.  An exposure needs a reservation. A caller that gets False, or no answer, must not expose.
3.  Calls are idempotent: a repeated call with the same reservation id, or the same event id, changes nothing. The
    ledger remembers a settled reservation and its request for SETTLED_SECONDS after its last cost. It remembers a
    cancelled or expired one for RETENTION_SECONDS, since a cost may still arrive. After that time, callers must not
    repeat `reserve`, because the request might be paid for again. A late cost is then charged to no account: only the
    log has it. If reservations expire after a day, one without a cost is forgotten two days after its creation.
4.  The limit of an account with a period applies to each period separately. A reservation is settled in the period of
    its creation, even after that period has ended. Unspent money is not carried over. If a budget's time zone changes,
    the current period keeps its amounts and lasts until a day of the new zone begins, at least 23 hours after its own
    beginning. So it may once last two days (`period_after`). Under any change of clock or time zone, the days of a
    budget begin at least 23 hours apart, and its hours at least one hour apart. If a clock was ahead, the next period
    begins too early, and its limit then holds for a longer time.
5.  The account of all arms ("*") bounds their sum, since the limits of the arms may add up to more (`spare` in
    `mtorl/experiment/paced_account.py`). When the parts of a budget change, an arm's limit in the current period
    becomes its spent amount plus its new part of the rest (`limit_after_a_change`). The next period begins with the new
    parts. Setting the same accounts again changes nothing.
"""

import json
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple, Protocol

from mtorl.policy.periods import Period
from serving.ledger.pacing_store import PacingStore

SETTLED_SECONDS = 3_600.0
RETENTION_SECONDS = 86_400.0


class LedgerUnavailable(RuntimeError):
    """The ledger did not answer, but may have made a reservation. Only `cancel_all` ensures that none is left."""


class LedgerInUse(RuntimeError):
    """Another router uses this ledger, which can't be shared."""


class AlreadyReserved(RuntimeError):
    """Another reservation already pays for this request, so the caller must not expose."""


class UnknownReservation(LookupError):
    """A cost names a reservation that the ledger does not know, so no account can be charged. The text is the id."""


Budget = tuple[str, str, Period]
"""Campaign, channel and period of the accounts that are parts of one budget."""


@dataclass(frozen=True)
class Account:
    """Money of an arm for a campaign and a channel; "*" matches any. A reservation draws on all matching accounts.

    Accounts that differ only in their arm are the parts of one budget.
    """

    arm: str
    campaign: str
    channel: str
    limit: float
    period: Period = "total"
    timezone: str = "UTC"

    @property
    def budget(self) -> Budget:
        """The budget that the account is a part of."""
        return self.campaign, self.channel, self.period


@dataclass(frozen=True)
class Balance:
    """Amounts of an account in the current period, currency units. `excess` is cost beyond what was reserved."""

    arm: str
    campaign: str
    channel: str
    limit: float
    spent: float
    reserved: float
    excess: float
    period: Period = "total"
    start: int = 0  # beginning of the period, seconds since 1970; 0 for "total"


@dataclass(frozen=True)
class Wanted:
    """A reservation to make: an arm's money (currency units) for a campaign, a channel and, if known, a request."""

    reservation_id: str
    arm: str
    campaign: str
    channel: str
    amount: float
    request: str | None = None


class Cost(NamedTuple):
    """A cost of a reservation in currency units, reported by an event."""

    reservation_id: str
    actual: float
    event: str = ""


@dataclass(frozen=True)
class Settlement:
    """Costs of a reservation so far, currency units: up to the reserved amount they are charged, beyond it excess."""

    charged: float
    excess: float


@dataclass(frozen=True)
class Room:
    """Free bytes of a ledger's store, and its size in bytes. Once the store is full, nothing can be reserved."""

    store: Literal["file", "redis"]
    free: int
    limit: int
    device: int | None = None  # number of the disk that a file lies on


class Ledger(Protocol):
    """A ledger. Calls block, and any of them may raise LedgerUnavailable."""

    shared: bool  # whether several routers may share the ledger
    pacing: PacingStore

    def identity(self) -> str | None:
        """A unique name of this ledger; None before the first `define`."""

    def claim(self) -> None:
        """Lock a ledger that is not shared until `close`; raises LedgerInUse if another router has locked it."""
        return

    def define(self, accounts: Iterable[Account]) -> None:
        """Replace the active accounts. Spent and reserved amounts stay, even of accounts that become inactive.

        If the parts of a budget change, the limits of the current period change, too (promise 5).
        """

    def reserve_all(self, wanted: Sequence[Wanted]) -> list[bool | Exception]:
        """Reserve money in all matching accounts atomically, for one item after the other, in one round trip or sync.

        Returns for each item True, False or its error. False means that an account has too little left, no account of
        the arm matches, or the id was cancelled, has expired, or was used with another scope or amount. At most one
        reservation for a `request` is open or has caused a cost. While there is one, another id gets AlreadyReserved.

        Errors that concern all items are raised, and so is ValueError for an amount that is not valid. Then nothing is
        reserved.
        """

    def settle_all(self, costs: Sequence[Cost]) -> list[Settlement | Exception]:
        """Charge costs to reservations; errors as in `reserve_all`, and UnknownReservation for an unknown id.

        The first cost of a reservation releases the rest of the reserved amount. Costs of further events add up: each
        is charged as far as the accounts have room, but never beyond the reserved amount in sum. The rest is excess. A
        cost after expiry is charged like one of a further event. A cost after a cancellation is entirely excess.
        """

    def cancel_all(self, reservation_ids: Sequence[str]) -> list[Exception | None]:
        """Release money; errors as in `reserve_all`. An id cancelled before it is reserved can't be reserved later."""

    def expire(self, ttl: float) -> int:
        """Release some reservations that have been open for at least `ttl` seconds; returns how many (0: none left).

        Setting the clock forward makes no reservation older (`ClockJumps`). Each call also forgets some reservations
        that were finished long ago (promise 3). Their costs stay in the accounts.
        """

    def balances(self) -> list[Balance]:
        """All active accounts in the current period. A call reads only what has changed since the last call."""

    def now(self) -> float:
        """Seconds since 1970 by the clock that begins the periods, which is the same for all routers of the ledger."""

    def open_reservations(self) -> list[str]:
        """Ids of reservations that are not settled, cancelled or expired."""

    def room(self) -> Room | None:
        """The space left in the store; None if it has no known limit."""

    def close(self) -> None:
        """Close the connection, which the next call opens again."""


Changes = tuple[int, dict[str, list[Balance]]]
"""The number of the last change, and the balances of all active accounts of each campaign that has changed."""


class KnownBalances:
    """A thread-safe cache of the balances of all campaigns, which reads only what has changed since the last read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._campaigns: dict[str, list[Balance]] = {}

    def read(self, changes: Callable[[int], Changes]) -> list[Balance]:
        """Read the changes since the last read; returns all balances, sorted by campaign.

        `changes` takes the number of the last change in the cache, and returns the later changes.
        """
        with self._lock:
            number, changed = changes(self._number)
            if number < self._number:  # an older copy of the ledger was restored: `changed` has all balances
                self._campaigns = {}
            self._number = number
            self._campaigns |= changed
            return [balance for campaign in sorted(self._campaigns) for balance in self._campaigns[campaign]]


def limit_after_a_change(part: int, spent: int, reserved: int, whole: int, whole_spent: int) -> int:
    """Limit of an arm for the rest of the current period, after the parts of its budget have changed.

    `part` is the arm's limit in a full period, and `whole` is the limit of all arms. All amounts have the same unit.
    The result is never below what the arm has spent and reserved. So the limits of all arms may add up to more than
    `whole` for a while; the account of all arms bounds their sum.
    """
    left = max(0, whole - whole_spent)
    return max(spent + reserved, spent + (math.floor(part / whole * left) if whole else 0))


def parts(limits: Mapping[Account, int]) -> dict[Budget, str]:
    """A digest of each budget's arms and their limits, to detect that the parts have changed."""
    found: defaultdict[Budget, list[tuple[str, int]]] = defaultdict(list)
    for account, limit in limits.items():
        found[account.budget].append((account.arm, limit))
    return {budget: digest(json.dumps(sorted(arms))) for budget, arms in found.items()}


def digest(text: str) -> str:
    """A hash of a text, 24 hexadecimal digits."""
    return blake2b(text.encode(), digest_size=12).hexdigest()
