"""The part of a ledger that pacing uses: a lease for the router that computes prices, and the storage of the prices.

    lease = store.lease(owner)                                  # the owner's lease, or that of the router that paces
    store.publish(lease, {account: state}, prices)              # False: another router has taken the lease
    store.prices()                                              # for the other routers, when `lease.version` changes

If the holder does not renew the lease, another router takes it over. The lease has no expiry time, so the clocks of the
routers may differ.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self


@dataclass(frozen=True)
class Lease:
    """The router that paces. `holder` is empty after a release."""

    holder: str
    number: int  # increases by one with each new holder
    renewed: int  # counts the renewals
    version: int = field(default=0, compare=False)  # version of the prices


class Prices(NamedTuple):
    """The prices of all accounts, packed for speed."""

    names: str  # names of the accounts, one per line
    values: array[float]  # in the order of `names`; NaN if there is no price

    @classmethod
    def of(cls, prices: Mapping[str, float]) -> Self:
        """Pack a mapping from account to price."""
        return cls("\n".join(prices), array("d", prices.values()))


class PacingStore(Protocol):
    """The storage for pacing. Calls block and may raise LedgerUnavailable."""

    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        """Acquire or renew the lease for the router `owner`; returns the present lease, perhaps of another router.

        The lease can be acquired if it is free or still equals `silent`. An empty owner releases the lease.
        """

    def publish(self, lease: Lease, states: Mapping[str, str], prices: Prices) -> bool:
        """Replace all prices, and store the states of accounts. An empty text deletes an account's state.

        Returns False and changes nothing if another router has acquired the lease.
        """

    def prices(self) -> tuple[int, Prices]:
        """Return all prices and their version."""

    def states(self) -> dict[str, str]:
        """Return the state of each account."""

    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        """Add new opportunities to the accounts' totals, and store gains.

        Args:
            opportunities: Number of opportunities since the last report, by account.
            gains: Gain per currency unit, for each campaign without a price. It is stored for a minute.
        """

    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        """Return all routers' total of opportunities by account, and the stored gain by campaign."""
