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
    """The router that paces at present, as stored in the ledger. `holder` is empty after the lease was released."""

    holder: str
    number: int  # increases by one with each new holder
    renewed: int  # counts the renewals
    version: int = field(default=0, compare=False)  # version of the prices, which increases with each change


class Prices(NamedTuple):
    """The prices of all accounts, packed into one text and one array, so that they are fast to read and write."""

    names: str  # names of the accounts, one per line
    values: array[float]  # prices in the order of `names`; NaN if an account has no price yet

    @classmethod
    def of(cls, prices: Mapping[str, float]) -> Self:
        """Pack a mapping from account to price."""
        return cls("\n".join(prices), array("d", prices.values()))


class PacingStore(Protocol):
    """The interface of the storage for pacing. Calls block and may raise LedgerUnavailable.

    No account's name may contain a line break.
    """

    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        """Acquire or renew the lease for the router `owner`; returns the lease, whose holder may be another router.

        The lease can be acquired if it is free, or if it still equals `silent`: its holder has then not renewed it
        since `silent` was read. To release a lease, call `lease("", mine)` with an empty owner.
        """

    def publish(self, lease: Lease, states: Mapping[str, str], prices: Prices) -> bool:
        """Replace all prices, and store the given states of accounts. An empty text deletes the state of an account.

        Returns False, without any change, if another router has acquired the lease since.
        """

    def prices(self) -> tuple[int, Prices]:
        """Return all prices and their version. Raises LedgerInUse for a ledger that only one router can use."""

    def states(self) -> dict[str, str]:
        """Return the state of each account."""

    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        """Add the opportunities that this router has counted to the totals of the accounts, and store gains.

        If a call is repeated because its answer was lost, its opportunities count twice.

        Args:
            opportunities: Account -> number of opportunities since the last report.
            gains: Campaign without a first price -> its gain per currency unit. It is deleted after a minute.
        """

    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        """Return each account's total of opportunities from all routers, and the stored gain of each campaign."""
