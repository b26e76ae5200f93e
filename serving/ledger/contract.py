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
    """Raised if the ledger did not answer. A reservation may exist nevertheless, so call `cancel_all`."""


class LedgerInUse(RuntimeError):
    """Raised if another router uses this ledger, which can't be shared."""


class AlreadyReserved(RuntimeError):
    """Raised if another decision on the same request has reserved money."""


class UnknownReservation(LookupError):
    """Raised for a cost of a reservation with an unknown id, which is the text."""


Budget = tuple[str, str, Period]
"""A budget, identified by the campaign, channel and period that all of its accounts have in common."""


@dataclass(frozen=True)
class Account:
    """A limit on the money that an arm may spend on a campaign and a channel in each period.

    "*" stands for all arms, campaigns or channels. A reservation takes money from every account that matches it.
    """

    arm: str
    campaign: str
    channel: str
    limit: float
    period: Period = "total"
    timezone: str = "UTC"

    @property
    def budget(self) -> Budget:
        """The budget of which the account is a part."""
        return self.campaign, self.channel, self.period


@dataclass(frozen=True)
class Balance:
    """The amounts of an account in the current period, in currency units.

    `excess` is the sum of the costs above the reserved amounts.
    """

    arm: str
    campaign: str
    channel: str
    limit: float
    spent: float
    reserved: float
    excess: float
    period: Period = "total"
    start: int = 0  # seconds since 1970; 0 if the period is "total"


@dataclass(frozen=True)
class Wanted:
    """A reservation to make, in currency units. `request` prevents that a retry reserves money twice."""

    reservation_id: str
    arm: str
    campaign: str
    channel: str
    amount: float
    request: str | None = None


class Cost(NamedTuple):
    """One cost of a reservation, in currency units, with the id of its event."""

    reservation_id: str
    actual: float
    event: str = ""


@dataclass(frozen=True)
class Settlement:
    """The total of a reservation's costs so far, in currency units: the charged part and the rest."""

    charged: float
    excess: float


@dataclass(frozen=True)
class Room:
    """The free space and the total size of a ledger's storage, in bytes."""

    store: Literal["file", "redis"]
    free: int
    limit: int
    device: int | None = None  # of the disk with the ledger's file


class Ledger(Protocol):
    """The interface of all ledgers. Calls block, and each may raise LedgerUnavailable."""

    shared: bool  # whether several routers may share the ledger
    pacing: PacingStore

    def identity(self) -> str | None:
        """Return the unique name of this ledger; None before the first `define`."""

    def claim(self) -> None:
        """Lock a ledger that can't be shared, until `close`; raises LedgerInUse."""
        return

    def define(self, accounts: Iterable[Account]) -> None:
        """Set the active accounts. All other accounts become inactive, but keep their amounts.

        If a budget is divided differently than before, the arms get new limits for the current period.
        """

    def reserve_all(self, wanted: Sequence[Wanted]) -> list[bool | Exception]:
        """Make several reservations; each takes money from all matching accounts, or from none.

        A reservation fails if an account has too little left, or if no account of the arm matches. It also fails if its
        id was cancelled, has expired, or was used with other arguments.

        Returns:
            For each item, whether the money is reserved, or an error, such as AlreadyReserved.

        Raises:
            LedgerUnavailable: No item got an answer.
            ValueError: An amount is not valid. Nothing is reserved then.
        """

    def settle_all(self, costs: Sequence[Cost]) -> list[Settlement | Exception]:
        """Charge costs to reservations. Returns a settlement for each cost, or an error, such as UnknownReservation.

        The first cost of a reservation is charged up to the reserved amount, and the rest of that amount is released.
        Later costs are charged up to that rest too, as far as the accounts have money. The uncharged part of a cost
        counts as excess.
        """

    def cancel_all(self, reservation_ids: Sequence[str]) -> list[Exception | None]:
        """Release the money of reservations. A cancelled id can't be reserved later, even if it was unknown."""

    def expire(self, ttl: float) -> int:
        """Release some of the reservations open for at least `ttl` seconds; returns their number, or 0 if none is left.

        The call also deletes some reservations that finished long ago.
        """

    def balances(self) -> list[Balance]:
        """Return the balance of each active account."""

    def now(self) -> float:
        """Return the ledger's time in seconds since 1970."""

    def open_reservations(self) -> list[str]:
        """Return the ids of all open reservations."""

    def room(self) -> Room | None:
        """Return the free space of the storage; None if its size is not limited."""

    def close(self) -> None:
        """Close the connection. The next call opens it again."""


Changes = tuple[int, dict[str, list[Balance]]]
"""The number of the last change, and for each campaign that has changed, the balances of all its active accounts."""


class KnownBalances:
    """A thread-safe cache of all balances, which reads only changed balances."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._campaigns: dict[str, list[Balance]] = {}

    def read(self, changes: Callable[[int], Changes]) -> list[Balance]:
        """Update the cache; returns all balances, sorted by campaign.

        Args:
            changes: Function that returns all changes with a higher number than its argument.
        """
        with self._lock:
            number, changed = changes(self._number)
            # The ledger was restored from an older copy.
            if number < self._number:
                self._campaigns = {}
            self._number = number
            self._campaigns |= changed
            return [balance for campaign in sorted(self._campaigns) for balance in self._campaigns[campaign]]


def limit_after_a_change(part: int, spent: int, reserved: int, whole: int, whole_spent: int) -> int:
    """Return an arm's limit for the current period, after its budget was divided differently among the arms.

    The arm gets its share of the money that is left. The limit is at least what the arm has spent and reserved.

    Args:
        part: The arm's limit in a full period.
        whole: Limit of all arms together in a full period.
    """
    left = max(0, whole - whole_spent)
    return max(spent + reserved, spent + (math.floor(part / whole * left) if whole else 0))


def parts(limits: Mapping[Account, int]) -> dict[Budget, str]:
    """Return a hash of how each budget is divided among its arms."""
    found: defaultdict[Budget, list[tuple[str, int]]] = defaultdict(list)
    for account, limit in limits.items():
        found[account.budget].append((account.arm, limit))
    return {budget: digest(json.dumps(sorted(arms))) for budget, arms in found.items()}


def digest(text: str) -> str:
    """Return a hash of a text as 24 hexadecimal digits."""
    return blake2b(text.encode(), digest_size=12).hexdigest()
