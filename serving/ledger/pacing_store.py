"""The part of a ledger that pacing uses: the lease of the router that paces, and what it writes for all others.

    lease = store.lease(owner)                                  # the owner's, or that of the router that paces
    store.publish(lease, {account: state}, prices)              # None: the lease has passed to another router
    store.changes(since)                                        # the other routers, once a second

No clock decides who holds the lease. Its holder renews it. A router that has seen no renewal for some seconds, by its
own steady clock, passes what it has seen as `silent`, and takes the lease if that is still its state. Each new holder
has a higher number, and `publish` takes the number in force only: a holder that was suspended can't write any more.

States and prices are opaque texts here. All of it lies in one Redis slot, or in one file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

CHANGES_KEPT = 120
"""Publications that `changes` can still give one by one: two minutes of them."""


@dataclass(frozen=True)
class Lease:
    """The lease as it is in the ledger; an empty holder has given it back."""

    holder: str
    number: int  # of this holder: one more than the last holder's
    renewed: int  # times


class PacingStore(Protocol):
    """Calls block; any of them may raise LedgerUnavailable. An account has a name, any text without a line end."""

    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        """Take the lease if it is free or still as `silent`; renew it if it is the owner's; return it as it is now.

        An empty owner gives it back: `lease("", mine)`.
        """

    def publish(self, lease: Lease, states: Mapping[str, str], prices: str) -> int | None:
        """Replace states by account (an empty text removes one) and add a change; None: the lease has another number.

        Returns:
            The change's version, one more than the last one's.
        """

    def changes(self, since: int) -> tuple[int, list[str]] | None:
        """The newest version, and the changes after `since`; None: read everything, some of them are gone."""

    def everything(self) -> tuple[int, dict[str, str]]:
        """The newest version, and the state of each account."""

    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        """Add opportunities to those of accounts, and give what money gains in campaigns that wait for a first price.

        If the answer is lost and the call repeated, opportunities count twice. Gains are forgotten after a minute.
        """

    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        """Opportunities by account, of all routers and ever since, and gains by campaign."""
