"""The part of a ledger that pacing uses: the lease of the router that paces, and the prices that it writes for others.

    lease = store.lease(owner)                                  # the owner's lease, or that of the router that paces
    store.publish(lease, {account: state}, prices)              # False: another router has taken the lease
    store.prices()                                              # for the other routers, when `lease.version` changes

The lease has no expiry time, so clocks need not agree. Its holder renews it. If another router has seen no renewal for
some seconds by its own steady clock, it passes the lease as last seen (`silent`), and takes it over if it is unchanged.
Each new holder has a higher number, and `publish` accepts only the current number. So a router that was suspended can't
overwrite the prices of its successor.

States are opaque texts here. All data lies in one Redis slot, or in one file.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self


@dataclass(frozen=True)
class Lease:
    """The state of the lease in the ledger. If the holder is an empty text, the lease was released."""

    holder: str
    number: int  # increases by one with each new holder
    renewed: int  # counts the renewals
    version: int = field(default=0, compare=False)  # increases with each change of the prices


class Prices(NamedTuple):
    """The prices of all accounts in a packed form, which can be read without work for each account."""

    names: str  # names of the accounts, one per line
    values: array[float]  # prices in the order of `names`; NaN: no price yet

    @classmethod
    def of(cls, prices: Mapping[str, float]) -> Self:
        """Pack a mapping from account to price."""
        return cls("\n".join(prices), array("d", prices.values()))


class PacingStore(Protocol):
    """The interface of the storage for pacing. Calls block and may raise LedgerUnavailable.

    The name of an account must not contain a line break.
    """

    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        """Acquire a lease that is free or equals `silent`, or renew the owner's lease; returns the lease as it is now.

        To release a lease, call `lease("", mine)` with an empty owner.
        """

    def publish(self, lease: Lease, states: Mapping[str, str], prices: Prices) -> bool:
        """Replace all prices, and set the given states; returns False if another router has acquired the lease since.

        An empty text removes a state.
        """

    def prices(self) -> tuple[int, Prices]:
        """Return all prices and their version. Raises LedgerInUse if the ledger can't be shared."""

    def states(self) -> dict[str, str]:
        """Return the state of each account."""

    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        """Add to the accounts' opportunities, and set the gain per currency unit of campaigns without a first price.

        If a call is repeated because its answer was lost, its opportunities count twice. Gains are deleted after a
        minute.
        """

    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        """Return each account's opportunities since the beginning, from all routers, and each campaign's gain."""
