"""Finds in balances the accounts that exceed their limits, and the budgets that pay for few exposures."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import floor

from mtorl.experiment.arm import ALL_ARMS
from mtorl.runtime.message import Message
from serving import messages
from serving.ledger.contract import Balance

_CLOCKS_DIFFER = 60.0  # largest difference between this host's clock and the ledger's, seconds
_FEW = 20  # warn if an arm can pay for fewer exposures than this on its most expensive channel
_SPELLED = {"total": "in all", "day": "a day", "hour": "an hour"}


class LimitWatch:
    """A check of the ledger's first promise, `spent + reserved <= limit`, for each account separately.

    A stage, a kill switch or a smaller budget may lower a limit below what is spent and reserved. This is not an
    overrun: while the limit stays lower, the amount at that moment is allowed. The amount can fall, and later rise to
    the allowed amount again, because a cost may arrive in parts, or after its reservation has expired.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str | int, ...], tuple[float, float]] = {}  # account -> its limit and the allowed amount

    def overruns(self, balances: Iterable[Balance]) -> dict[tuple[str, str], float]:
        """The largest overrun of an account now, currency units, by arm and period.

        Excess counts only in accounts of all arms, because a single arm's limit does not depend on its excess.
        """
        seen: dict[tuple[str | int, ...], tuple[float, float]] = {}
        found: defaultdict[tuple[str, str], float] = defaultdict(float)
        for balance in balances:
            account = (balance.arm, balance.campaign, balance.channel, balance.period, balance.start)
            taken, first = balance.spent + balance.reserved, 0.0
            if balance.arm == ALL_ARMS:
                taken += balance.excess
                first = taken  # allowed at the first check, since the limit may have been lowered before
            limit, allowed = self._seen.get(account, (balance.limit, first))
            if balance.limit < limit:
                allowed = min(allowed, taken)
            allowed = max(allowed, balance.limit)
            seen[account] = balance.limit, allowed
            found[balance.arm, balance.period] = max(taken - allowed, found[balance.arm, balance.period])
        self._seen = seen
        return dict(found)


def budget_warnings(balances: Sequence[Balance], now: float, cost_cap: Mapping[str, float]) -> list[Message]:
    """Messages on budgets that are overspent at `now`, that began a period too early, or that pay for few exposures."""
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
        if budget in overspent or not caps or b.limit <= b.spent + b.reserved:  # an exhausted arm may be switched off
            continue
        cap, dearest = max(caps)
        if b.limit < _FEW * cap:
            about = {"budget": name, "arm": b.arm, "limit": b.limit, "per": _SPELLED[b.period]}
            found.append(messages.FEW_EXPOSURES(count=floor(b.limit / cap), channel=dearest, **about))
    return found
