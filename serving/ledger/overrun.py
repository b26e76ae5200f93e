"""Finds accounts that exceed their limits, and budgets for only a few exposures."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import floor

from mtorl.experiment.arm import ALL_ARMS
from mtorl.runtime.message import Message
from serving import messages
from serving.ledger.contract import Balance

_CLOCKS_DIFFER = 60.0  # accepted difference between the host's and the ledger's clock, seconds
_FEW = 20  # warn if a limit pays for fewer exposures
_SPELLED = {"total": "in all", "day": "a day", "hour": "an hour"}


class LimitWatch:
    """Checks that `spent + reserved <= limit` in each account.

    If a person lowers a limit below the spent amount, the spent amount does not count as an overrun.
    """

    def __init__(self) -> None:
        # account -> its last limit, and the allowed amount
        self._seen: dict[tuple[str | int, ...], tuple[float, float]] = {}

    def overruns(self, balances: Iterable[Balance]) -> dict[tuple[str, str], float]:
        """Return the largest overrun of a limit in currency units, by arm and period; 0 if no limit is exceeded."""
        seen: dict[tuple[str | int, ...], tuple[float, float]] = {}
        found: defaultdict[tuple[str, str], float] = defaultdict(float)
        for balance in balances:
            account = (balance.arm, balance.campaign, balance.channel, balance.period, balance.start)
            taken, first = balance.spent + balance.reserved, 0.0
            if balance.arm == ALL_ARMS:
                taken += balance.excess
                # The limit may have been lowered before this first check.
                first = taken
            limit, allowed = self._seen.get(account, (balance.limit, first))
            if balance.limit < limit:
                allowed = min(allowed, taken)
            allowed = max(allowed, balance.limit)
            seen[account] = balance.limit, allowed
            found[balance.arm, balance.period] = max(taken - allowed, found[balance.arm, balance.period])
        self._seen = seen
        return dict(found)


def budget_warnings(balances: Sequence[Balance], now: float, cost_cap: Mapping[str, float]) -> list[Message]:
    """Return warnings about budgets that are overspent, too small, or begun too early."""
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
        if budget in overspent or not caps or b.limit <= b.spent + b.reserved:  # the arm may have been switched off
            continue
        cap, dearest = max(caps)
        if b.limit < _FEW * cap:
            about = {"budget": name, "arm": b.arm, "limit": b.limit, "per": _SPELLED[b.period]}
            found.append(messages.FEW_EXPOSURES(count=floor(b.limit / cap), channel=dearest, **about))
    return found
