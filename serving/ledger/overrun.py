"""Finds accounts whose limits were exceeded, in balances that are read one after the other."""

from collections import defaultdict
from collections.abc import Iterable

from mtorl.experiment.arm import ALL_ARMS
from serving.ledger.contract import Balance


class LimitWatch:
    """Checks the first promise of a ledger, `spent + reserved <= limit`, in each account by itself.

    A stage, a kill switch or a lower amount may set a limit at or below what is spent and reserved. That is no overrun:
    the amount taken at that moment is allowed while the limit is lower. A cost may come in parts, or after its
    reservation has expired, so the amount may fall and rise again up to that.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str | int, ...], tuple[float, float]] = {}  # limit, and the most that is allowed

    def overruns(self, balances: Iterable[Balance]) -> dict[tuple[str, str], float]:
        """By arm and period: how much the worst of all accounts exceeds its limit at one moment, currency units.

        Costs above their reservations (`excess`) count in the accounts of all arms: the limit of a single arm follows
        its spent and reserved amounts, without them.
        """
        seen: dict[tuple[str | int, ...], tuple[float, float]] = {}
        found: defaultdict[tuple[str, str], float] = defaultdict(float)
        for balance in balances:
            account = (balance.arm, balance.campaign, balance.channel, balance.period, balance.start)
            taken, first = balance.spent + balance.reserved, 0.0
            if balance.arm == ALL_ARMS:
                taken += balance.excess
                first = taken  # as far as a new watch knows: its amount may have been lowered
            limit, allowed = self._seen.get(account, (balance.limit, first))
            if balance.limit < limit:
                allowed = min(allowed, taken)
            allowed = max(allowed, balance.limit)
            seen[account] = balance.limit, allowed
            found[balance.arm, balance.period] = max(taken - allowed, found[balance.arm, balance.period])
        self._seen = seen
        return dict(found)
