"""Tests of overruns, money above a limit that was not committed before the limit was lowered."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.ledger.contract import Balance, Ledger
from serving.ledger.overrun import LimitWatch
from tests.serving.ledgers import Place, accounts_of, arms, cancel, reserve, settle

DAY, ARM = 86_400.0, "challenger"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("sqlite", tmp_path, 0)


@pytest.fixture
def ledger(place: Place) -> Ledger:
    made = place.open()
    made.define(_accounts())
    return made


def _accounts(amount: float = 10.0, **changes: Any) -> Any:
    budgets = [{"campaign": "*", "channel": "*", "amount": amount, "period": "day"}]
    return accounts_of(**{"stage": "50%", "arms": arms(challenger=0.5), "budgets": budgets, **changes})


def _above(watch: LimitWatch, ledger: Ledger) -> float:
    return max(watch.overruns(ledger.balances()).values())


@pytest.mark.parametrize("change", [{"enabled": False}, {"stage": "shadow"}, {"stage": "5%"}])
def test_a_roll_back_after_excess_costs_is_no_overrun(ledger: Ledger, place: Place, change: dict[str, Any]) -> None:
    watch = LimitWatch()
    assert reserve(ledger, "1", ARM, "c1", "x", 2.0) and reserve(ledger, "2", ARM, "c1", "x", 1.0)
    settle(ledger, "1", 4.0)
    assert _above(watch, ledger) == 0
    ledger.define(_accounts(**change))
    found = {balance.arm: balance for balance in ledger.balances()}[ARM]
    assert found.excess == 2.0 and found.limit < 5.0
    assert _above(watch, ledger) == 0 and _above(LimitWatch(), ledger) == 0
    settle(ledger, "2", 3.0)
    place.clock.now += DAY
    assert _above(watch, ledger) == 0 and _above(LimitWatch(), ledger) == 0


def test_a_lowered_amount_is_no_overrun_until_more_is_committed(ledger: Ledger) -> None:
    watch = LimitWatch()
    assert reserve(ledger, "1", ARM, "c1", "x", 2.0) and reserve(ledger, "2", ARM, "c1", "x", 2.0)
    assert _above(watch, ledger) == 0
    ledger.define(_accounts(1.0))
    for seen in (watch, LimitWatch()):
        assert _above(seen, ledger) == 0
    cancel(ledger, "2")
    assert _above(watch, ledger) == 0
    more = [replace(each, spent=each.spent + 3.0) if each.arm == "*" else each for each in ledger.balances()]
    assert watch.overruns(more)["*", "day"] == pytest.approx(1.0)
    assert _above(watch, ledger) == 0
    ledger.define(_accounts(10.0))
    assert _above(watch, ledger) == 0
    ledger.define(_accounts(1.0))
    assert _above(watch, ledger) == 0
    assert watch.overruns(more)["*", "day"] == pytest.approx(3.0), "less was committed when it was lowered again"


@pytest.mark.parametrize("late", [False, True])
def test_partial_or_late_costs_of_earlier_reservations_are_no_overrun(ledger: Ledger, place: Place, late: bool) -> None:
    watch = LimitWatch()
    for number in range(4):
        assert reserve(ledger, str(number), ARM, "c1", "x", 1.0)
    assert _above(watch, ledger) == 0
    ledger.define(_accounts(2.0))
    assert _above(watch, ledger) == 0
    if late:
        place.clock.now += 3600
        assert ledger.expire(1800) == 4
    else:
        for number in range(4):
            settle(ledger, str(number), 0.6, "first")
    assert _above(watch, ledger) == 0
    for number in range(4):
        settle(ledger, str(number), 0.3, "second")
    assert _above(watch, ledger) == 0
    settle(ledger, "0", 4.0, "third")
    assert _above(watch, ledger) > 1.0


def test_costs_beyond_the_whole_budget_are_an_overrun(ledger: Ledger) -> None:
    watch = LimitWatch()
    assert reserve(ledger, "1", ARM, "c1", "x", 4.0)
    assert _above(watch, ledger) == 0
    settle(ledger, "1", 12.5)
    found = watch.overruns(ledger.balances())
    assert found["*", "day"] == 2.5 and found[ARM, "day"] == 0
    assert watch.overruns(ledger.balances())["*", "day"] == 2.5, "until the period is over"


def test_a_new_router_sees_an_arm_above_its_limit(ledger: Ledger) -> None:
    """A trigger in SQLite prevents this state, so the test changes the balances that it read."""
    broken = [replace(each, reserved=7.0) if each.arm == ARM else each for each in ledger.balances()]
    assert LimitWatch().overruns(broken)[ARM, "day"] == pytest.approx(2.0)


def test_a_campaign_does_not_hide_the_overrun_of_another() -> None:
    balances = [Balance("a", campaign, "*", 10.0, spent, 0.0, 0.0) for campaign, spent in (("c1", 11.0), ("c2", 0.0))]
    assert LimitWatch().overruns(balances) == {("a", "total"): 1.0}
