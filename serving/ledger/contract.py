"""The promises of every ledger.

1.  spent + reserved <= limit in every account, at every moment: under races, crashes and retries. (When the limit of a
    whole budget is lowered below what is already spent and reserved, nothing is taken back, but every new reservation
    of more than 0 is refused.)
2.  An exposure needs a reservation: a caller that gets False, or no answer, must not expose.
3.  Every call may be repeated: the second call with a reservation's id, or with an event's, changes nothing. A
    reservation that was settled is remembered for SETTLED_SECONDS after its last cost. One that was cancelled or has
    expired may still turn out to have cost something, and is remembered for RETENTION_SECONDS. Its request is
    remembered as long. After that, `reserve` must not be repeated, a cost is unknown and charged to no account, and the
    request may be paid for again: what comes later is in the decision log alone. If reservations expire after a day,
    one without a cost is forgotten two days after it was made.
4.  The limit of an account with a period applies to each period separately. A reservation belongs to the period of its
    creation and is settled there, also after the period has ended; what a period leaves unspent is not carried over.
    A change of the budget's time zone keeps the present period with its amounts. It goes on until a day of the new
    zone begins, 23 hours or more after it began itself; so it may last two days once (`period_after`). Under any change
    of clock or time zone, two days of a budget begin 23 hours apart or more, two hours an hour. (A clock that was ahead
    has begun the next period too early; until that is over, nothing beyond its limit is spent.)
5.  The account of all arms ("*") binds them together: limits of arms may add up to more (`spare` in
    `mtorl/experiment/paced_account.py`). When the parts of a budget change, an arm's limit in the present
    period becomes what it has spent, plus its new part of the rest (`limit_after_a_change`). Setting the same accounts
    again changes nothing, and the next period begins with the new parts.
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
    """The ledger did not answer. Whether the call took effect is unknown; `cancel` makes sure that it has none."""


class LedgerInUse(RuntimeError):
    """Another router spends from this ledger, which routers can't share."""


class AlreadyReserved(RuntimeError):
    """Another reservation pays for the same request already: this caller must not expose as well."""


class UnknownReservation(LookupError):
    """Settled without ever being reserved: there is no account to charge. The text is the id."""


Budget = tuple[str, str, Period]
"""Campaign, channel and period of the accounts that are parts of one budget."""


@dataclass(frozen=True)
class Account:
    """Money of one arm for a campaign and a channel; "*" matches any. A reservation draws on all that match.

    Accounts that differ in their arm only are the parts of one budget.
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
    """A reservation to be made: money of one arm for a campaign and a channel, and the request it pays for."""

    reservation_id: str
    arm: str
    campaign: str
    channel: str
    amount: float
    request: str | None = None


class Cost(NamedTuple):
    """A cost of a reservation, as an event reports it."""

    reservation_id: str
    actual: float
    event: str = ""


@dataclass(frozen=True)
class Settlement:
    """Costs of a reservation so far: charged up to the reserved amount, the rest is excess."""

    charged: float
    excess: float


@dataclass(frozen=True)
class Room:
    """The bytes that a ledger's store may still grow by, and its limit. Once it is full, nothing can be reserved."""

    store: Literal["file", "redis"]
    free: int
    limit: int
    device: int | None = None  # of the disk of a file


class Ledger(Protocol):
    """Calls block; any of them may raise LedgerUnavailable."""

    shared: bool  # whether routers on other machines may hold reservations in it, too
    pacing: PacingStore

    def identity(self) -> str | None:
        """A name that no other ledger has; None before any accounts were set in it."""

    def claim(self) -> None:
        """Keep the ledger for this router until `close`, if it is not shared; LedgerInUse if another one has it."""
        return

    def define(self, accounts: Iterable[Account]) -> None:
        """Set the accounts in force. Spent and reserved amounts stay, also those of accounts that are left out now.

        Where the parts of a budget change, the limits of the present period follow (promise 5).
        """

    def reserve_all(self, wanted: Sequence[Wanted]) -> list[bool | Exception]:
        """Set money aside in all matching accounts, or in none of them: for each in turn, in one round trip or sync.

        False: an account has too little left, no account matches, the id was cancelled or has expired, or it was used
        with another scope or amount. Of the reservations for one `request`, at most one is open or has cost something:
        another id is answered by AlreadyReserved. After one was cancelled or has expired, the next may be made.

        The error of a single reservation is returned in its place; an error that concerns all is raised, and ValueError
        for an amount that is no money: then none is made.
        """

    def settle_all(self, costs: Sequence[Cost]) -> list[Settlement | Exception]:
        """Turn reservations into spend; errors as of `reserve_all`, and UnknownReservation for an id of none.

        The first cost frees what it does not need. Costs of different events add up: a later one is charged as far as
        the accounts have room left, and never beyond what was reserved; the rest is excess. A late cost was spent
        nevertheless: after the reservation has expired it is charged like a later one, after a cancellation it is all
        excess.
        """

    def cancel_all(self, reservation_ids: Sequence[str]) -> list[Exception | None]:
        """Release the money; errors as of `reserve_all`. An id that is not reserved yet can't be reserved later."""

    def expire(self, ttl: float) -> int:
        """Release some of what has been open for `ttl` seconds or longer; returns how many: 0 if none is left.

        A clock that is put forward while the ledger runs makes nothing older (`ClockJumps`). Each call also forgets
        some reservations that were finished long ago; their costs stay in the accounts.
        """

    def balances(self) -> list[Balance]:
        """All accounts in force, in the current period. A call costs what has changed since the last one."""

    def now(self) -> float:
        """Seconds since 1970 by the clock that begins the periods, the same for all that share the ledger."""

    def open_reservations(self) -> list[str]:
        """Ids that are neither finished nor expired."""

    def room(self) -> Room | None:
        """Room that the store has left; None: no known bound."""

    def close(self) -> None:
        """Close the connection; the next call opens it again."""


Changes = tuple[int, dict[str, list[Balance]]]
"""The number of the last change, and the campaigns that changed, each with all its accounts in force."""


class KnownBalances:
    """Caches the balances of all campaigns: a read costs only what has changed since the last one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._campaigns: dict[str, list[Balance]] = {}

    def read(self, changes: Callable[[int], Changes]) -> list[Balance]:
        """Read the changes after the last one that is known; returns all balances, by campaign."""
        with self._lock:
            number, changed = changes(self._number)
            if number < self._number:  # an older copy of the ledger, of which everything was read
                self._campaigns = {}
            self._number = number
            self._campaigns |= changed
            return [balance for campaign in sorted(self._campaigns) for balance in self._campaigns[campaign]]


def limit_after_a_change(part: int, spent: int, reserved: int, whole: int, whole_spent: int) -> int:
    """Limit of an arm in the present period, after the parts of its budget have changed; all amounts in one unit.

    `part` is its limit in a period that begins now. The limit is never below what the arm has spent and reserved, so
    those of all arms may add up to more than the `whole` for a while; the account of all arms bounds them then.
    """
    left = max(0, whole - whole_spent)
    return max(spent + reserved, spent + (math.floor(part / whole * left) if whole else 0))


def parts(limits: Mapping[Account, int]) -> dict[Budget, str]:
    """Digest of each budget's division: equal for the same arms and limits."""
    found: defaultdict[Budget, list[tuple[str, int]]] = defaultdict(list)
    for account, limit in limits.items():
        found[account.budget].append((account.arm, limit))
    return {budget: digest(json.dumps(sorted(arms))) for budget, arms in found.items()}


def digest(text: str) -> str:
    """A short text that no other text has."""
    return blake2b(text.encode(), digest_size=12).hexdigest()
