"""Divides the bank's budgets into slices on a Redis Cluster, so that a reservation is one script on one node.

The bank is the group of keys that has the whole budgets. Each other group draws on its slice as on an account. The sum
of the slices never exceeds the budget, even if one of these steps fails:

- A slice grows first in the bank, which counts it as reserved, and then in its group.
- A slice shrinks first in its group, and then in the bank. This begins a new epoch of the slice. A delayed growth of an
  older epoch has no effect.

If the bank has too little left, the slices of all groups are recalled, at most once a second. If a process dies between
two steps, the money that is then in no slice returns to the bank with the next recall. A node that is down keeps its
slices until it is up again or their period is over.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from serving.ledger.contract import Balance
from serving.ledger.redis_server import RedisServer

# Results of a script. TOO_LITTLE means that a budget for all campaigns ("*") has too little left in this group.
PERIOD_OVER, TOO_LITTLE = -2, -3
ANY = '"*"'
_PART = 16  # a slice grows by at least one sixteenth of the free amount


class Slices:
    """The slices of the budgets, one for each group of keys.

    Args:
        run: Runs a script in a group: run(key prefix, script, keys, *arguments).
        begin: Begins new periods for the given campaigns, if their periods have ended.
    """

    recall_seconds = 1.0  # seconds between two recalls

    def __init__(
        self, run: Callable[..., Any], begin: Callable[[Iterable[tuple[str, str]]], None], server: RedisServer
    ) -> None:
        self._run = run
        self._begin = begin
        self._bank, self._groups = server.prefix, server.groups
        self._recalled = float("-inf")
        # (group, arm, channel) -> when the bank last had too little
        self._empty: dict[tuple[str, ...], float] = {}

    def enlarge(self, of: tuple[str, str, str], amount: int, again: Callable[[], Any]) -> Any:
        """Enlarge the slices of a group, arm and channel by enough for `amount`, then run a script again.

        If the bank has too little, the unused money of all slices is first returned to the bank.

        Args:
            of: Group, arm and channel.
            amount: Nano-units that the script needs.

        Returns:
            The script's result, or TOO_LITTLE if there is not enough money.
        """
        answer: Any = TOO_LITTLE
        if time.monotonic() < self._empty.get(of, float("-inf")) + self.recall_seconds:
            return answer
        for recalls in (False, True):
            if recalls and not self._recalled + self.recall_seconds <= time.monotonic():
                break
            if recalls:
                self.recall()
            self._grow(*of, amount)
            if (answer := again()) != TOO_LITTLE:
                return answer
        self._empty[of] = time.monotonic()
        return answer

    def recall(self) -> None:
        """Return the unused amounts of all slices to the bank."""
        self._recalled = time.monotonic()
        # A group that is down ends the recall, so the order is random.
        for group in random.sample(self._groups, len(self._groups)):
            self._lease(group, [(*of, 0) for *of, _ in self._look(group, "back")])

    def defined(self, arguments: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Yield the arguments of the `define` calls that create the slices in all groups.

        Args:
            arguments: Arguments of the `define` call for the whole budgets.
        """
        campaign, digest, *terms = arguments[3:]
        for i in range(0, len(terms), 7):
            terms[i + 2], terms[i + 6] = 0, "slice"
        for group in self._groups:
            yield group, [f"{group}terms:{campaign}", f"{group}digests"], campaign, digest, *terms

    def _grow(self, group: str, arm: str, channel: str, amount: int) -> None:
        found = self._look(group, "", arm, channel)
        self._lease(group, [(*of, max(0, amount - int(room))) for *of, room in found])

    def _look(self, group: str, *arguments: str) -> list[tuple[str, ...]]:
        """Return account, period's start, epoch, cap, spent and free amount of each slice."""
        found = self._run(group, "slices", [], *arguments)
        return list(zip(*(found[i::6] for i in range(6)), strict=True))

    def _lease(self, group: str, slices: Sequence[tuple[Any, ...]]) -> None:
        """Report the spent amounts of slices to the bank, and enlarge the slices.

        Args:
            slices: Results of `_look`, but with the least growth (nano-units, 0 for no growth) as the last value.
        """
        leased: Any = []
        for _ in range(2):
            if slices:
                flat = [value for of in slices for value in of]
                leased = self._run(self._bank, "lease", [f"{self._bank}slices:{group}"], _PART, *flat)
            if leased != PERIOD_OVER:
                break
            self._begin([(self._bank, ANY)])
        if leased and leased != PERIOD_OVER:
            self._run(group, "grant", [], *leased)


def added_up(bank: Iterable[Balance], groups: Iterable[Balance]) -> list[Balance]:
    """Combine balances into one per account.

    Args:
        bank: Balances of the whole budgets, whose amounts are replaced by the sums over the slices.
        groups: Balances of the slices, and of budgets for single campaigns.
    """
    own: list[Balance] = []
    sums: defaultdict[tuple[str, str, str, int], list[float]] = defaultdict(lambda: [0.0] * 3)
    for b in groups:
        if b.campaign != "*":
            own.append(b)
            continue
        amounts = sums[b.arm, b.channel, b.period, b.start]
        for i, amount in enumerate((b.spent, b.reserved, b.excess)):
            amounts[i] = round(amounts[i] + amount, 9)
    wholes = []
    for b in bank:
        spent, reserved, excess = sums[b.arm, b.channel, b.period, b.start]
        wholes.append(replace(b, spent=spent, reserved=reserved, excess=excess))
    return [*wholes, *sorted(own, key=lambda b: b.campaign)]
