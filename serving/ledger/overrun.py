"""Finds accounts whose limits were exceeded, and budgets that pay for few exposures, in balances."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import floor

from mtorl.experiment.arm import ALL_ARMS
from mtorl.runtime.message import Message
from serving import messages
from serving.ledger.contract import Balance

_CLOCKS_DIFFER = 60.0  # seconds; this clock and that of a shared ledger
_FEW = 20  # exposures of the dearest channel; an arm that can pay for less is starved of it
_SPELLED = {"total": "in all", "day": "a day", "hour": "an hour"}


class LimitWatch:
    """Checks the first promise of a ledger, `spent + reserved <= limit`, in each account by itself.

    A stage, a kill switch or a lower amount may set a limit at or below what is spent and reserved. That is no overrun:
    the amount taken at that moment is allowed while the limit is lower. A cost may come in parts, or after its
    reservation has expired, so the amount may fall and rise again up to that.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str | int, ...], tuple[float, float]] = {}  # limit, and the most that is allowed

    def overruns(self, balances: Iterable[Balance]) -> dict[tuple[str, str], float]:
        """Overrun by arm and period: the most by which an account exceeds its limit at one moment, currency units.

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


def budget_warnings(balances: Sequence[Balance], now: float, cost_cap: Mapping[str, float]) -> list[Message]:
    """One message for each budget that takes no or few reservations at `now`, seconds since 1970."""
    found = []
    wholes = [b for b in balances if b.arm == ALL_ARMS]
    overspent = {(b.campaign, b.channel, b.period) for b in wholes if b.spent + b.reserved > b.limit}
    for b in balances:
        budget = b.campaign, b.channel, b.period
        name = f"campaign {b.campaign}, channel {b.channel}, {b.period}"
        if b.arm == ALL_ARMS:
            if budget in overspent:
                amounts = {"spent": b.spent, "reserved": b.reserved, "limit": b.limit}
                found.append(messages.OVERSPENT(budget=name, **amounts))
            if b.start > now + _CLOCKS_DIFFER:
                found.append(messages.CLOCK_AHEAD(budget=name))
            continue
        caps = [(cap, channel) for channel, cap in cost_cap.items() if b.channel in ("*", channel)]
        if budget in overspent or not caps or b.limit <= b.spent + b.reserved:  # the last: as of an arm that is off
            continue
        cap, dearest = max(caps)
        if b.limit < _FEW * cap:
            about = {"budget": name, "arm": b.arm, "limit": b.limit, "per": _SPELLED[b.period]}
            found.append(messages.FEW_EXPOSURES(count=floor(b.limit / cap), channel=dearest, **about))
    return found
