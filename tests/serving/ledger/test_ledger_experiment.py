"""Tests that no sequence of edits makes an experiment exceed a budget."""

import contextlib
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from serving.ledger.contract import Account, Ledger, UnknownReservation
from tests.serving.ledgers import LedgerMachine, Place, accounts_of, arms, balance, cancel, cases, reserve, settle

NANO = 10**9
ARMS = ("incumbent", "challenger", "renamed", "third")
AMOUNTS = {("*", "*", "total"): 10.0, ("c1", "*", "total"): 5.0, ("*", "*", "day"): 3.0, ("c1", "*", "hour"): 2.0}
SHORTEST = {"total": 1, "day": 23 * 3600, "hour": 3600}
ZONES = ("UTC", "Asia/Tokyo", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Pacific/Tahiti", "Atlantic/Azores")
STAGES = st.sampled_from(["shadow", "1%", "5%", "25%", "50%"])
WEIGHTS = st.sampled_from([0.0, 0.1, 0.3, 0.5])
NAMES = st.text("abc", min_size=1, max_size=3)


def accounts(timezone: str = "UTC", **changes: Any) -> list[Account]:
    budgets = [
        {"campaign": c, "channel": h, "period": p, "amount": amount, "timezone": timezone}
        for (c, h, p), amount in AMOUNTS.items()
    ]
    return accounts_of(**{"budgets": budgets, **changes})


class Machine(LedgerMachine):
    """A state machine that edits an experiment between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: dict[str, Any] = {}

    def _define(self, **changes: Any) -> None:
        self.changes |= changes
        self.ledger.define(accounts(**self.changes))
        before = self.ledger.balances()
        # Another router would set the same accounts again.
        for router in (self.ledger, self.place.open()):
            router.define(accounts(**self.changes))
        assert self.ledger.balances() == before

    @initialize()
    def begin(self) -> None:
        self._define()

    @rule(stage=STAGES, enabled=st.sampled_from([True, True, False]))
    def change_stage(self, stage: str, enabled: bool) -> None:
        self._define(stage=stage, enabled=enabled)

    @rule(name=st.sampled_from(ARMS[1:3]), weight=WEIGHTS, third=WEIGHTS)
    def change_arms(self, name: str, weight: float, third: float) -> None:
        self._define(arms=arms(**{name: weight, "third": third}))

    @rule(timezone=st.sampled_from(ZONES))
    def change_time_zone(self, timezone: str) -> None:
        self._define(timezone=timezone)

    @rule(name=NAMES, arm=st.sampled_from(ARMS), campaign=st.sampled_from(["c1", "c2"]), cents=st.integers(0, 200))
    def reserve(self, name: str, arm: str, campaign: str, cents: int) -> None:
        reserve(self.ledger, name, arm, campaign, "x", cents / 100)

    @rule(name=NAMES, cents=st.integers(0, 200), event=st.sampled_from(["e1", "e2"]))
    def settle(self, name: str, cents: int, event: str) -> None:
        with contextlib.suppress(UnknownReservation):
            settle(self.ledger, name, cents / 100, event)

    @rule(name=NAMES)
    def cancel(self, name: str) -> None:
        cancel(self.ledger, name)

    @rule()
    def expire(self) -> None:
        self.ledger.expire(0)

    @rule(hours=st.sampled_from([0.25, 1, 12, 24, -24]))
    def turn_the_clock(self, hours: float) -> None:
        self.place.clock.now += 3600 * hours

    @invariant()
    def no_budget_is_exceeded_and_nothing_is_forgotten(self) -> None:
        sums: dict[tuple[str, ...], Counter[str]] = {}
        for (arm, *budget), (spent, reserved, excess) in self.place.books().items():
            found = sums.setdefault(tuple(budget), Counter())
            which = "all" if arm == "*" else "arms"
            found[which] += spent + reserved
            found[which + "' excess"] += excess
        for (campaign, channel, period, _), found in sums.items():
            assert found["all"] <= AMOUNTS[campaign, channel, period] * NANO
            assert found["all"] == found["arms"] and found["all' excess"] == found["arms' excess"]

    @invariant()
    def no_two_periods_begin_within_one(self) -> None:
        starts: dict[tuple[str, ...], list[int]] = {}
        for *account, start in sorted(self.place.books(), key=lambda book: int(book[-1])):
            starts.setdefault(tuple(account), []).append(int(start))
        for (_, _, _, period), found in starts.items():
            assert all(later - earlier >= SHORTEST[period] for earlier, later in pairwise(found))

    @invariant()
    def no_arm_is_below_what_it_holds(self) -> None:
        shown = self.ledger.balances()
        whole = {(b.campaign, b.channel, b.period): b for b in shown if b.arm == "*"}
        for b in shown:
            assert b.spent + b.reserved <= b.limit + 1e-9
            assert b.start == whole[b.campaign, b.channel, b.period].start
            assert b.limit <= AMOUNTS[b.campaign, b.channel, b.period] + 1e-9


TestSqlite, TestRedis, TestCluster = cases(Machine, 40)


@pytest.fixture
def ledger(place: Place) -> Ledger:
    return place.open()


def spend(ledger: Ledger, arm: str, amount: float) -> float:
    spent = 0
    for i in range(round(10 * amount)):
        name = f"{arm}-{len(ledger.open_reservations())}-{balance(ledger, '*').spent}-{i}"
        if reserve(ledger, name, arm, "c2", "x", 0.1):
            settle(ledger, name, 0.1)
            spent += 1
    return spent / 10


def total(amount: float) -> dict[str, Any]:
    return {"budgets": [{"campaign": "*", "channel": "*", "amount": amount}]}


# Sequences of edits. Each arm has its expected limit, the amount it tries to spend, and the amount it is granted.
EDITS: dict[str, list[tuple[dict[str, Any], dict[str, tuple[int, int, int]]]]] = {
    # Once, the incumbent's limit became the whole budget, although the challenger had spent some of it.
    "a switch": [
        ({}, {"incumbent": (5, 2, 2), "challenger": (5, 99, 5)}),
        ({"enabled": False}, {"incumbent": (5, 99, 3), "challenger": (5, 1, 0)}),
    ],
    "a larger stage": [
        ({"stage": "5%"}, {"incumbent": (9, 6, 6)}),
        ({"stage": "50%"}, {"incumbent": (8, 99, 2), "challenger": (2, 99, 2)}),
    ],
    "another name": [
        ({}, {"challenger": (5, 4, 4)}),
        ({"arms": arms(renamed=0.5)}, {"renamed": (3, 99, 3), "incumbent": (3, 99, 3)}),
    ],
    "an amount below what is spent": [
        ({}, {"incumbent": (5, 4, 4)}),
        (total(2.0), {"incumbent": (4, 1, 0), "challenger": (0, 1, 0)}),
        (total(6.0), {"incumbent": (5, 1, 1), "challenger": (1, 1, 1)}),
    ],
}


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
def test_an_edit_leaves_each_arm_its_share_of_what_is_left(ledger: Ledger, edits: Any) -> None:
    for changes, expected in edits:
        ledger.define(accounts(**total(10.0) | changes))
        for arm, (limit, _, _) in expected.items():
            assert int(balance(ledger, arm).limit) == limit
        for arm, (_, tries, spends) in expected.items():
            assert spend(ledger, arm, tries) == spends


def test_the_next_day_begins_with_the_new_shares(place: Place, ledger: Ledger) -> None:
    daily = {"budgets": [{"campaign": "*", "channel": "*", "amount": 10.0, "period": "day"}]}
    ledger.define(accounts(**daily, stage="25%"))
    assert reserve(ledger, "r1", "incumbent", "c", "x", 7.0)
    ledger.define(accounts(**daily))
    limits = {b.arm: b.limit for b in ledger.balances()}
    # The limits add up to more than the budget of 10, because 7 are only reserved. The budget itself still holds.
    assert limits == {"*": 10, "incumbent": 7, "challenger": 5}
    assert reserve(ledger, "r2", "challenger", "c", "x", 3.0) and not reserve(ledger, "r3", "challenger", "c", "x", 1)
    place.clock.now += 86_400
    assert {b.arm: b.limit for b in ledger.balances()} == {"*": 10, "incumbent": 5, "challenger": 5}
