"""Accounts in which more money was taken than their limits allow, seen in balances that are read one after the other.

watch = LimitWatch()
watch.overruns(ledger.balances())        # {("spring/challenger", "day"): 0.0, ("*", "total"): 0.0}
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from mtorl.experiment.arm import ALL_ARMS
from serving.ledger.contract import Balance


class LimitWatch:
    """Checks the first promise of a ledger, `spent + reserved <= limit`, in each account by itself.

    A stage, a kill switch or a lower amount may set a limit to what is spent and reserved, or below that. It is no
    overrun: nothing more can be taken then, so what is taken can only fall. What it falls to is the most that is
    allowed from then on.
    """

    def __init__(self) -> None:
        self._allowed: dict[tuple[str | int, ...], float] = {}

    def overruns(self, balances: Iterable[Balance]) -> dict[tuple[str, str], float]:
        """By arm and period: how far the account that is furthest above its limit is above it, currency units.

        Costs above their reservations (`excess`) count in the accounts of all arms: the limit of a single arm follows
        what was spent and reserved, without them.

        Args:
            balances: All accounts, as the ledger has them at one moment.
        """
        allowed: dict[tuple[str | int, ...], float] = {}
        found: defaultdict[tuple[str, str], float] = defaultdict(float)
        for balance in balances:
            account = (balance.arm, balance.campaign, balance.channel, balance.period, balance.start)
            taken, lowered = balance.spent + balance.reserved, 0.0
            if balance.arm == ALL_ARMS:
                taken = lowered = (
                    taken + balance.excess
                )  # as far as a new watch knows: its amount may have been lowered
            allowed[account] = max(balance.limit, min(self._allowed.get(account, lowered), taken))
            above = taken - allowed[account]
            found[balance.arm, balance.period] = max(above, found[balance.arm, balance.period])
        self._allowed = allowed
        return dict(found)
