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
    """The state of the lease in the ledger. An empty holder means that it was released."""

    holder: str
    number: int  # grows by one with each new holder
    renewed: int  # number of renewals
    version: int = field(default=0, compare=False)  # version of the prices


class Prices(NamedTuple):
    """The prices of all accounts, packed so that reading them costs no work per account."""

    names: str  # accounts, one a line
    values: array[float]  # prices in the order of the names; NaN: no price yet

    @classmethod
    def of(cls, prices: Mapping[str, float]) -> Self:
        """Pack prices, given by account."""
        return cls("\n".join(prices), array("d", prices.values()))


class PacingStore(Protocol):
    """Storage for pacing. Calls block and may raise LedgerUnavailable. Account names are texts of one line."""

    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        """Take the lease if it is free or equals `silent`, or renew the owner's lease; returns the lease as it is now.

        An empty owner releases it: `lease("", mine)`.
        """

    def publish(self, lease: Lease, states: Mapping[str, str], prices: Prices) -> bool:
        """Replace all prices and some states (an empty text removes one); False if a newer lease exists."""

    def prices(self) -> tuple[int, Prices]:
        """The version of the prices, and all prices. Raises LedgerInUse if the ledger is not shared."""

    def states(self) -> dict[str, str]:
        """The state of each account."""

    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        """Add to the opportunities of accounts, and set the gain of a currency unit in campaigns without a first price.

        If the answer is lost and the call is repeated, opportunities count twice. Gains are forgotten after a minute.
        """

    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        """Opportunities by account, summed over all routers since the beginning, and gains by campaign."""
