"""Prices from the ledger's own books: one sequence of updates for all routers, and spend that follows the schedule."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mtorl.experiment.experiment import Experiment
from mtorl.policy.pacing import State
from serving.ledger import Account, Ledger
from serving.router.flow.pacer import Pacer, _paced
from tests.experiments import experiment
from tests.serving.ledgers import KINDS, NOON, Place

HOUR, DAY = 3600.0, 86_400.0
MIDNIGHT = NOON - 12 * HOUR
CHANNELS = ("search", "video")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, lasting_redis: int) -> Place:
    place = Place(request.param, tmp_path, lasting_redis)
    place.clock.now = MIDNIGHT
    return place


def of(*budgets: dict[str, Any]) -> Experiment:
    return Experiment.from_dict(experiment("http://x", budgets=list(budgets)))


def define(ledger: Ledger, found: Experiment) -> None:
    ledger.define([Account(x.arm, x.campaign, x.channel, x.limit, x.period) for x in found.accounts()])


def day(amount: float = 200.0, campaign: str = "*", channel: str = "*", **pacing: Any) -> dict[str, Any]:
    paced = {"price": 0.5, **pacing}
    return {"campaign": campaign, "channel": channel, "amount": amount, "period": "day", "pacing": paced}


def test_without_a_paced_budget_the_models_own_price_stands(place: Place) -> None:
    found = of({"campaign": "*", "channel": "*", "amount": 10.0})
    ledger = place.open()
    define(ledger, found)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    pacer.refresh(found, ledger.balances())
    assert pacer.prices("challenger", "spring") is None and ledger.memory() == (0, "")


def test_an_exposure_pays_for_every_budget_that_it_draws_on(place: Place) -> None:
    found = of(day(), day(campaign="spring", channel="video", price=0.25))
    ledger = place.open()
    define(ledger, found)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    pacer.refresh(found, ledger.balances())
    assert pacer.prices("challenger", "spring") == {"search": 0.5, "video": 0.75}
    assert pacer.prices("challenger", "autumn") == {"search": 0.5, "video": 0.5}
    assert pacer.prices("stranger", "spring") is None
    assert pacer.by_arm() == {"incumbent": 0.5, "challenger": 0.5}
    only = of(day(channel="video"))
    define(ledger, only)
    pacer.refresh(only, ledger.balances())
    assert pacer.prices("challenger", "spring") == {"video": 0.5}  # the other has the model's own


def test_a_plan_counts_what_the_ledger_leaves_an_arm(place: Place) -> None:
    """The kill switch in the middle of a day: the incumbent's budget is what the challenger has left, and no more."""
    ledger = place.open()
    define(ledger, of(day(200.0)))
    for arm, amount in (("challenger", 80.0), ("incumbent", 10.0)):
        ledger.reserve(arm, arm, "c", "video", amount)
        ledger.settle(arm, amount)
    off = Experiment.from_dict(experiment("http://x", budgets=[day(200.0)], enabled=False))
    define(ledger, off)
    asked = [limit for limit in off.accounts() if limit.pacing is not None]
    paced = _paced(asked, place.clock.now, ledger.balances(), {}, Counter())
    limits = {account.limit.arm: account.plan.budget for account in paced}
    assert limits == {"incumbent": 120.0, "challenger": 80.0}


def test_routers_share_one_sequence_and_a_new_one_goes_on(place: Place) -> None:
    found = of(day())
    ledger = place.open()
    define(ledger, found)
    pacers = [Pacer(place.open(), CHANNELS, place.clock) for _ in range(3)]
    for step in range(20):
        place.clock.now = MIDNIGHT + 60.0 * step
        ledger.reserve(f"r{step}", "challenger", "c", "video", 1.0)
        balances = ledger.balances()
        for pacer in pacers:
            pacer.refresh(found, balances)
        assert len({str(pacer.prices("challenger", "c")) for pacer in pacers}) == 1
    assert ledger.memory()[0] == 20  # one update a step, whoever made it
    late = Pacer(place.open(), CHANNELS, place.clock)
    late.refresh(found, ledger.balances())
    assert late.prices("challenger", "c") == pacers[0].prices("challenger", "c")
    assert late.prices("challenger", "c")["video"] > 0.5 > late.prices("incumbent", "c")["video"]  # type: ignore[index]


def test_two_that_update_at_once_do_not_undo_each_other(place: Place) -> None:
    ledger, other = place.open(), place.open()
    define(ledger, of(day()))
    version, _ = ledger.memory()
    assert ledger.remember(version, "one") and not other.remember(version, "two")
    assert other.memory() == (version + 1, "one")
    assert other.remember(version + 1, "three") and ledger.memory() == (version + 2, "three")


TRAFFIC = [1.0] * 8 + [3.0] * 16
PACED = of(day(200.0, price=1.0, traffic=TRAFFIC))


PLAN = PACED.budgets[0].pacing.plan(100.0, "day", "UTC", MIDNIGHT)  # type: ignore[union-attr]


def live(place: Place, ledger: Ledger, pacer: Pacer, from_hour: int = 0) -> Iterator[float]:
    """The rest of a day: opportunities of random value and cost, more of them in the afternoon than was expected.

    Yields:
        What is spent after each minute.
    """
    chance, number = random.Random(1), 0
    for minute in range(60 * from_hour, 60 * 24):
        place.clock.now = MIDNIGHT + 60.0 * minute
        hour = minute // 60
        pacer.refresh(PACED, ledger.balances())
        price = (pacer.prices("challenger", "c") or {})["video"]
        for _ in range(int(TRAFFIC[hour] * (3 if 14 <= hour < 16 else 1))):
            gain, cost = chance.random(), 0.05 + 0.1 * chance.random()
            number += 1
            if gain >= price * cost and ledger.reserve(f"d{number}", "challenger", "c", "video", cost):
                ledger.settle(f"d{number}", cost)
        yield next(b.spent for b in ledger.balances() if b.arm == "challenger")


def test_spend_follows_the_schedule_and_never_exceeds_the_budget(place: Place) -> None:
    ledger = place.open()
    define(ledger, PACED)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    spent = worst = 0.0
    for spent in live(place, ledger, pacer):
        assert spent <= 100.0
        worst = max(worst, abs(spent - PLAN.scheduled(place.clock.now + 60)))
    assert worst < 5.0, "within five percent of the budget at any time of the day"
    assert spent > 95.0


@pytest.mark.parametrize("ahead", [-0.5, 0.0, 0.5])
def test_the_price_lives_on_over_midnight_also_if_a_clock_is_a_little_off(place: Place, ahead: float) -> None:
    ledger = place.open()
    define(ledger, PACED)
    pacer = Pacer(ledger, CHANNELS, lambda: place.clock.now + ahead)
    place.clock.now = MIDNIGHT + 21 * HOUR
    scheduled = PLAN.scheduled(place.clock.now)
    assert ledger.reserve("earlier today", "challenger", "c", "video", scheduled)
    ledger.settle("earlier today", scheduled)
    for _ in live(place, ledger, pacer, from_hour=21):
        pass
    (before,) = {(pacer.prices("challenger", "c") or {})["video"]}
    place.clock.now = MIDNIGHT + DAY - 10
    while place.clock.now < MIDNIGHT + DAY + 20:
        place.clock.now += 0.25
        pacer.refresh(PACED, ledger.balances())
        assert (pacer.prices("challenger", "c") or {})["video"] == pytest.approx(before, rel=0.5)


def test_what_is_remembered_does_not_grow(place: Place) -> None:
    found = of(day(), {"campaign": "x", "channel": "*", "amount": 5.0, "period": "hour", "pacing": {"price": 1.0}})
    ledger = place.open()
    define(ledger, found)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    sizes = []
    for hour in range(60):
        place.clock.now = MIDNIGHT + HOUR * hour
        pacer.refresh(found, ledger.balances())
        sizes.append(len(ledger.memory()[1]))
    assert max(sizes[20:]) <= max(sizes[:20]) * 1.2


@dataclass(frozen=True)
class Expects:
    """What an arm expects of an exposure."""

    expected_reward: float
    expected_cost: float


def counted(opportunities: int, amount: float = 100.0, **changes: Any) -> Experiment:
    pacing = {"price": 1.0, "opportunities": opportunities}
    budgets = [{"campaign": "*", "channel": "*", "amount": amount, "pacing": pacing}]
    return Experiment.from_dict(experiment("http://x", budgets=budgets, **changes))


@pytest.mark.parametrize("routers", [1, 3])
def test_a_total_lasts_for_as_many_opportunities_as_are_expected(place: Place, routers: int) -> None:
    """Each router counts its own; the clock never moves, so that only opportunities do."""
    total, chance = 4000, random.Random(2)
    found = counted(total)
    ledger = place.open()
    define(ledger, found)
    pacers = [Pacer(place.open(), CHANNELS, place.clock) for _ in range(routers)]
    for pacer in pacers:
        pacer.refresh(found, ledger.balances())
    spent = dict.fromkeys(("incumbent", "challenger"), 0.0)
    for number in range(total):
        pacer = pacers[chance.randrange(routers)]
        arm = "challenger" if chance.random() < 0.5 else "incumbent"
        gain, cost = chance.random(), 0.05 + 0.1 * chance.random()
        pacer.count(arm, "c", None)
        worth_it = gain >= (pacer.prices(arm, "c") or {})["video"] * cost
        if worth_it and ledger.reserve(f"d{number}", arm, "c", "video", cost):
            ledger.settle(f"d{number}", cost)
            spent[arm] += cost
        if pacer.due():
            pacer.refresh(found, ledger.balances())
        if number == total // 2:
            assert all(abs(money - 25.0) < 2.5 for money in spent.values()), spent
    assert all(48.5 <= money <= 50.0 for money in spent.values()), spent


def test_every_opportunity_is_counted_once(place: Place) -> None:
    found = counted(1000)
    ledger = place.open()
    define(ledger, found)
    first, second = (Pacer(place.open(), CHANNELS, place.clock) for _ in range(2))
    for pacer in (first, second):
        pacer.refresh(found, ledger.balances())
    for pacer in (first, second, first, second):
        for _ in range(100):
            pacer.count("challenger", "c", None)
        pacer.refresh(found, ledger.balances())
        pacer.refresh(found, ledger.balances())
    states = json.loads(ledger.memory()[1])
    assert {json.loads(key)[0]: state["at"] for key, state in states.items()} == {"challenger": 400, "incumbent": 0}


def test_campaigns_that_callers_make_up_take_no_memory(place: Place) -> None:
    found = counted(10_000)
    ledger = place.open()
    define(ledger, found)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    pacer.refresh(found, ledger.balances())
    for number in range(1000):
        pacer.count("challenger", f"made up {number}", Expects(0.1, 0.2))
    assert len(pacer._opportunities) == 1


def test_after_a_ramp_the_rest_of_the_money_lasts_for_the_rest_of_the_opportunities(place: Place) -> None:
    ledger, small, large = place.open(), counted(1000, stage="5%"), counted(1000, stage="50%")
    define(ledger, small)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    pacer.refresh(small, ledger.balances())
    for arm, had in (("challenger", 25), ("incumbent", 475)):
        for _ in range(had):
            pacer.count(arm, "c", None)
            assert ledger.reserve(f"{arm}{_}", arm, "c", "video", 0.1)
            ledger.settle(f"{arm}{_}", 0.1)
    pacer.refresh(small, ledger.balances())
    define(ledger, large)
    limits = [limit for limit in large.accounts() if limit.pacing is not None]
    states = {key: State.from_dict(state) for key, state in json.loads(ledger.memory()[1]).items()}
    plans = {a.limit.arm: a.plan for a in _paced(limits, place.clock.now, ledger.balances(), states, Counter())}
    assert {arm: (round(p.budget, 6), p.times[-1]) for arm, p in plans.items()} == {
        "challenger": (27.5, 275.0),
        "incumbent": (72.5, 725.0),
    }
    assert plans["challenger"].scheduled(25.0) == pytest.approx(2.5)
    assert plans["incumbent"].scheduled(475.0) == pytest.approx(47.5)


def test_the_price_to_begin_with_is_what_an_arm_expects_of_its_money(place: Place) -> None:
    found = of({"campaign": "*", "channel": "*", "amount": 200.0, "period": "day"})  # paced, as nobody said otherwise
    ledger = place.open()
    define(ledger, found)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    for number in range(20):
        pacer.refresh(found, ledger.balances())
        assert pacer.prices("challenger", "c") is None, "the model's own price, until more is known"
        pacer.count("challenger", "c", Expects(0.1 + 0.01 * number, 0.5))
        pacer.count("incumbent", "c", None)
    pacer.refresh(found, ledger.balances())
    assert pacer.prices("challenger", "c") == pytest.approx({"search": 0.39, "video": 0.39})
    assert pacer.prices("incumbent", "c") is None, "it never said what it expects"
    late = Pacer(place.open(), CHANNELS, place.clock)
    late.refresh(found, ledger.balances())
    assert late.prices("challenger", "c") == pacer.prices("challenger", "c"), "known to all routers from then on"


def test_a_memory_of_another_version_is_begun_anew(place: Place) -> None:
    ledger = place.open()
    define(ledger, of(day()))
    assert ledger.remember(0, json.dumps({"[]": {"at": 1.0, "spent": 2.0, "multiplier": 1.0}}))
    pacer = Pacer(ledger, CHANNELS, place.clock)
    pacer.refresh(of(day()), ledger.balances())
    assert pacer.prices("challenger", "c") == {"search": 0.5, "video": 0.5}
