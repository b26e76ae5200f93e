"""The part of a ledger that pacing uses: the lease of the router that paces, and what it writes for all others.

    lease = store.lease(owner)                                  # the owner's, or that of the router that paces
    store.publish(lease, {account: state}, prices)              # False: the lease has passed to another router
    store.prices()                                              # the other routers, if a lease has another version

No clock decides who holds the lease. Its holder renews it. A router that has seen no renewal for some seconds, by its
own steady clock, passes what it has seen as `silent`, and takes the lease if that is still its state. Each new holder
has a higher number, and `publish` takes the number in force only: a holder that was suspended can't write any more.

States are opaque texts here. All of it lies in one Redis slot, or in one file.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self


@dataclass(frozen=True)
class Lease:
    """The lease as it is in the ledger; an empty holder has given it back."""

    holder: str
    number: int  # of this holder: one more than the last holder's
    renewed: int  # times
    version: int = field(default=0, compare=False)  # of the prices


class Prices(NamedTuple):
    """Prices of all accounts, packed so that a reader does no work for each account."""

    names: str  # of accounts, a line each
    values: array[float]  # in the order of the names; NaN: no price yet

    @classmethod
    def of(cls, prices: Mapping[str, float]) -> Self:
        """Prices by account."""
        return cls("\n".join(prices), array("d", prices.values()))


class PacingStore(Protocol):
    """Calls block; any of them may raise LedgerUnavailable. An account has a name, any text without a line end."""

    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        """Take the lease if it is free or still as `silent`; renew it if it is the owner's; return it as it is now.

        An empty owner gives it back: `lease("", mine)`.
        """

    def publish(self, lease: Lease, states: Mapping[str, str], prices: Prices) -> bool:
        """Replace prices, and states by account (an empty text removes one); False: the lease has another number."""

    def prices(self) -> tuple[int, Prices]:
        """The version of the prices, and all of them. Raises LedgerInUse where routers share no ledger."""

    def states(self) -> dict[str, str]:
        """The state of each account."""

    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        """Add opportunities to those of accounts, and give what money gains in campaigns that wait for a first price.

        If the answer is lost and the call repeated, opportunities count twice. Gains are forgotten after a minute.
        """

    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        """Opportunities by account, of all routers and ever since, and gains by campaign."""
