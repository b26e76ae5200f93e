"""Slices of the bank's budgets, on a cluster: a group draws on its slice as on an account, in one script of one node.

The sum of the slices never exceeds the budget, also if a step in between fails:

- A slice grows in the bank first, and then in its group. The bank counts it as reserved.
- A group takes back what is left of a slice first, and then the bank learns it. That begins an epoch of the slice: a
  growth of another epoch, whose message was late, never arrives.

If the bank has too little left, the slices of all groups are recalled, once a second at most. What a process that dies
between two steps leaves in no slice returns with the next recall. A node that is away keeps its slices until it returns
or their period is over.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from serving.ledger.contract import Balance
from serving.ledger.redis_server import RedisServer

# Answers of scripts: a period has ended; an account of the campaign "*" has too little left.
PERIOD_OVER, TOO_LITTLE = -2, -3
ANY = '"*"'
_PART = 16  # of what is free in the bank, a sixteenth is leased at once


class Slices:
    """Lets slices of groups grow, and takes them back.

    `run` runs a script in a group (prefix, script, keys, arguments); `begin` begins periods of campaigns.
    """

    recall_seconds = 1.0  # between two recalls

    def __init__(
        self, run: Callable[..., Any], begin: Callable[[Iterable[tuple[str, str]]], None], server: RedisServer
    ) -> None:
        self._run = run
        self._begin = begin
        self._bank, self._groups = server.prefix, server.groups
        self._recalled = float("-inf")
        self._empty: dict[tuple[str, ...], float] = {}  # when the bank had too little for the last time

    def enlarge(self, of: tuple[str, str, str], amount: int, again: Callable[[], Any]) -> Any:
        """Let slices of a group, arm and channel grow that have too little left, and run a script again; its answer."""
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
        """Take back what the slices of all groups have left."""
        self._recalled = time.monotonic()
        # In any order: a group that is away ends a recall, and the next ones get to all others.
        for group in random.sample(self._groups, len(self._groups)):
            self._lease(group, [(*of, 0) for *of, _ in self._look(group, "back")])

    def defined(self, arguments: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Calls of the script `define` for groups, after the bank's: of each account a slice, which has nothing yet."""
        campaign, digest, *terms = arguments[3:]
        for i in range(0, len(terms), 7):
            terms[i + 2], terms[i + 6] = 0, "slice"
        for group in self._groups:
            yield group, [f"{group}terms:{campaign}", f"{group}digests"], campaign, digest, *terms

    def _grow(self, group: str, arm: str, channel: str, amount: int) -> None:
        found = self._look(group, "", arm, channel)
        self._lease(group, [(*of, max(0, amount - int(room))) for *of, room in found])

    def _look(self, group: str, *arguments: str) -> list[tuple[str, ...]]:
        """Account, start of its period, epoch, cap, spent amount and room of slices."""
        found = self._run(group, "slices", [], *arguments)
        return list(zip(*(found[i::6] for i in range(6)), strict=True))

    def _lease(self, group: str, slices: Sequence[tuple[Any, ...]]) -> None:
        """Tell the bank about slices, and the least by which each must grow."""
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
    """Balances of a ledger: amounts of the bank's accounts are those of all their slices."""
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
