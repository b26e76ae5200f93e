"""Tests that all routers compute equal prices from the ledger's balances, which keep spend on schedule."""

import cProfile
import pstats
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from mtorl.experiment.budget_table import BudgetTable
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.layers import Experiments
from mtorl.policy.pacing import STOP_MULTIPLIER, Plan
from serving import messages
from serving.ledger.contract import Ledger
from serving.ledger.pacer import Pacer, ledger_accounts
from serving.ledger.pacing_store import Prices
from tests.experiments import experiment
from tests.messages import assert_says
from tests.serving.ledgers import NOON, Place, reserve, settle
from tests.serving.router_fixtures import arms

HOUR, DAY = 3600.0, 86_400.0
MIDNIGHT = NOON - 12 * HOUR
CHANNELS = {"search": 0.15, "video": 0.15}  # with the highest cost of an exposure


@pytest.fixture
def place(place: Place) -> Place:
    place.clock.now = MIDNIGHT
    return place


def of(*budgets: dict[str, Any]) -> Experiments:
    return Experiments([Experiment.from_dict(experiment("http://x", budgets=list(budgets)))])


def define(ledger: Ledger, found: Experiments) -> None:
    ledger.define(ledger_accounts(found, CHANNELS))


def paced(place: Place, found: Experiments) -> tuple[Ledger, Pacer]:
    ledger = place.open()
    define(ledger, found)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    pacer.refresh(found)
    return ledger, pacer


def after_a_rush(place: Place, found: Experiments, arm: str) -> tuple[Ledger, Pacer]:
    """Return a ledger and its pacer, a minute after an arm reserved most of its day's money."""
    ledger, pacer = paced(place, found)
    assert reserve(ledger, "a rush", arm, "c", "video", 90.0)
    place.clock.now += 60.0
    pacer.refresh(found)
    return ledger, pacer


def day(amount: float = 200.0, campaign: str = "*", channel: str = "*", **pacing: Any) -> dict[str, Any]:
    paced = {"price": 0.5, **pacing}
    return {"campaign": campaign, "channel": channel, "amount": amount, "period": "day", "pacing": paced}


def steady(place: Place) -> Callable[[], float]:
    """Return a clock that follows the clock of `place` but never goes back."""
    seen = [place.clock.now, 0.0]

    def read() -> float:
        now = place.clock.now
        seen[:] = now, seen[1] + max(0.0, now - seen[0])
        return seen[1]

    return read


def test_an_exposure_pays_for_every_budget_that_it_draws_on(place: Place) -> None:
    found = of(day(), day(campaign="spring", channel="video", price=0.25))
    ledger, pacer = paced(place, found)
    assert pacer.prices("test/challenger", "spring") == {"search": 0.5, "video": 0.75}
    assert pacer.prices("test/challenger", "autumn") == {"search": 0.5, "video": 0.5}
    assert pacer.prices("stranger", "spring") is None
    assert pacer.by_arm() == {"test/incumbent": 0.5, "test/challenger": 0.5}
    for only, prices in (
        (day(channel="video"), {"video": 0.5}),
        ({"campaign": "*", "channel": "*", "amount": 10.0}, None),
    ):
        define(ledger, of(only))
        pacer.refresh(of(only))
        assert pacer.prices("test/challenger", "spring") == prices  # without pacing, the model's own price applies


def test_a_plan_counts_what_the_ledger_leaves_an_arm(place: Place) -> None:
    ledger = place.open()
    define(ledger, of(day(200.0)))
    for arm, amount in (("test/challenger", 80.0), ("test/incumbent", 10.0)):
        reserve(ledger, arm, arm, "c", "video", amount)
        settle(ledger, arm, amount)
    off = Experiments([Experiment.from_dict(experiment("http://x", budgets=[day(200.0)], enabled=False))])
    define(ledger, off)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    pacer.refresh(off)
    (pace,) = pacer.pace()
    assert pace.arm == "test/incumbent" and pace.largest_gap == pytest.approx(0.05 * (120.0 - 10.0))
    assert pacer.by_arm() == {"test/incumbent": 0.5, "test/challenger": 0.5 * STOP_MULTIPLIER}


def test_the_gap_between_an_arm_and_its_plan(place: Place) -> None:
    """At 2:24, each arm should have spent 10 of its 100. Gaps are measured in units of 5, the largest tolerated gap."""
    ledger, pacer = paced(place, of(day(200.0)))
    reserve(ledger, "spent", "test/challenger", "c", "video", 20.0)
    settle(ledger, "spent", 20.0)
    reserve(ledger, "open", "test/challenger", "c", "video", 5.0)
    place.clock.now += 2.4 * HOUR
    pacer.refresh(of(day(200.0)))
    paces = {pace.arm: pace for pace in pacer.pace()}
    assert paces.keys() == {"test/challenger", "test/incumbent"}  # the account of the whole budget is not paced
    fast, slow = paces["test/challenger"], paces["test/incumbent"]
    assert (fast.committed, slow.committed) == (25.0, 0.0)
    assert (fast.planned, slow.planned) == (pytest.approx(10.0), pytest.approx(10.0))
    assert (fast.ahead, slow.ahead) == (pytest.approx(3.0), pytest.approx(-2.0))


TRAFFIC = [1.0] * 8 + [3.0] * 16
PACED = of(day(200.0, price=1.0, traffic=TRAFFIC))


PLAN = Plan(100.0, next(iter(PACED)).budgets[0].pacing.schedule("day", "UTC", MIDNIGHT, MIDNIGHT))  # type: ignore[union-attr]


def live(place: Place, ledger: Ledger, pacer: Pacer, from_hour: int = 0) -> Iterator[float]:
    """Simulate the rest of a day with a busy afternoon; yields the challenger's spend after each minute."""
    chance, number = random.Random(1), 0
    for minute in range(60 * from_hour, 60 * 24):
        place.clock.now = MIDNIGHT + 60.0 * minute
        hour = minute // 60
        pacer.refresh(PACED)
        price = (pacer.prices("test/challenger", "c") or {})["video"]
        for _ in range(int(TRAFFIC[hour] * (3 if 14 <= hour < 16 else 1))):
            gain, cost = chance.random(), 0.05 + 0.1 * chance.random()
            number += 1
            if gain >= price * cost and reserve(ledger, f"d{number}", "test/challenger", "c", "video", cost):
                settle(ledger, f"d{number}", cost)
        yield next(b.spent for b in ledger.balances() if b.arm == "test/challenger")


def test_spend_follows_the_schedule_and_never_exceeds_the_budget(place: Place) -> None:
    ledger, pacer = paced(place, PACED)
    spent = worst = furthest = 0.0
    for spent in live(place, ledger, pacer):
        assert spent <= 100.0
        worst = max(worst, abs(spent - PLAN.scheduled(place.clock.now + 60)))
        furthest = max(furthest, *(abs(pace.ahead) for pace in pacer.pace() if pace.arm == "test/challenger"))
    assert worst < 5.0, "within five percent of the budget at any time of the day"
    assert 0.0 < furthest < 2.0, "never reported as too fast or too slow"
    assert spent > 95.0


def test_the_price_continues_over_midnight(place: Place) -> None:
    ledger = place.open()
    define(ledger, PACED)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    place.clock.now = MIDNIGHT + 21 * HOUR
    scheduled = PLAN.scheduled(place.clock.now)
    assert reserve(ledger, "earlier today", "test/challenger", "c", "video", scheduled)
    settle(ledger, "earlier today", scheduled)
    for _ in live(place, ledger, pacer, from_hour=21):
        pass
    (before,) = {(pacer.prices("test/challenger", "c") or {})["video"]}
    place.clock.now = MIDNIGHT + DAY - 10
    while place.clock.now < MIDNIGHT + DAY + 20:
        place.clock.now += 0.25
        pacer.refresh(PACED)
        assert (pacer.prices("test/challenger", "c") or {})["video"] == pytest.approx(before, rel=0.5)


def counted(opportunities: int, amount: float = 100.0, **changes: Any) -> Experiments:
    pacing = {"price": 1.0, "opportunities": opportunities}
    budgets = [{"campaign": "*", "channel": "*", "amount": amount, "pacing": pacing}]
    return Experiments([Experiment.from_dict(experiment("http://x", budgets=budgets, **changes))])


def test_the_initial_price_is_the_gain_per_cost_that_arms_forecast(place: Place) -> None:
    found = of({"campaign": "*", "channel": "*", "amount": 200.0, "period": "day"})  # paced by default
    _, pacer = paced(place, found)
    for number in range(20):
        pacer.refresh(found)
        assert pacer.prices("test/challenger", "c") is None, "the model's own price applies at first"
        pacer.count("test/challenger", "c", None, None)
        pacer.count("test/incumbent", "c", 1e308 if number == 7 else 0.1 + 0.01 * number, 0.5)
    pacer.refresh(found)
    assert pacer.prices("test/challenger", "c") == pytest.approx({"search": 0.4, "video": 0.4}, rel=0.06)
    assert pacer.prices("test/challenger", "c") == pacer.prices("test/incumbent", "c")
    late = Pacer(place.open(), CHANNELS, place.clock)
    late.refresh(found)
    assert late.prices("test/challenger", "c") == pacer.prices("test/challenger", "c"), "all routers use it"


def test_a_small_arm_starts_with_the_price_of_the_largest_arm(place: Place) -> None:
    """The limit of a small arm is a little above its part of the budget."""
    found = Experiments([Experiment.from_dict(experiment("http://x", budgets=[day()], stage="5%"))])
    ledger, pacer = paced(place, found)
    assert reserve(ledger, "early", "test/incumbent", "c", "video", 3.0)
    place.clock.now += 60.0
    pacer.refresh(found)
    prices = pacer.by_arm()
    assert prices["test/challenger"] == pytest.approx(prices["test/incumbent"], rel=0.01) and min(prices.values()) > 0.6
    limits = {b.arm: b.limit for b in ledger.balances()}
    assert limits == pytest.approx({"*": 200.0, "test/incumbent": 190.0225, "test/challenger": 10.4275})


@pytest.mark.parametrize("policy", ["baseline", [{"channel": "video"}]])
def test_an_arm_that_ignores_prices_is_reported(place: Place, policy: Any) -> None:
    """Such an arm spends as fast at a higher price, so its budget may be used up by noon."""
    incumbent, challenger = arms()
    both = [{**incumbent, "policy": policy}, {**challenger, "endpoint": "http://x"}]
    found = Experiments([Experiment.from_dict(experiment("http://x", arms=both, budgets=[day()]))])
    _, pacer = after_a_rush(place, found, "test/incumbent")
    (fault,) = pacer.faults
    assert_says(fault, messages.NOT_PACED, arm="test/incumbent", channel="*", why=messages.PRICE_IGNORED())


def test_a_price_that_is_far_too_low_is_reported_and_can_be_corrected(place: Place) -> None:
    low, mended = of(day(price=0.0005)), of(day(price=0.5))
    _, pacer = after_a_rush(place, low, "test/challenger")
    (fault,) = pacer.faults
    assert_says(fault, messages.NOT_PACED, arm="test/challenger", why=messages.PRICE_TOO_LOW(most=100))
    assert pacer.prices("test/challenger", "c") == pytest.approx({"search": 0.05, "video": 0.05})
    pacer.refresh(mended)
    assert not pacer.faults
    assert pacer.prices("test/challenger", "c") == pacer.prices("test/incumbent", "c") == {"search": 0.5, "video": 0.5}
    place.clock.now += DAY
    pacer.refresh(mended)
    assert pacer.prices("test/challenger", "c") == {"search": 0.5, "video": 0.5}


def test_each_campaign_starts_with_a_price_from_its_own_forecasts(place: Place) -> None:
    """One median would be wrong by a factor of 1,000 for some campaigns."""
    found = of(*({"campaign": c, "channel": "*", "amount": 200.0, "period": "day"} for c in ("few", "many", "none")))
    _, pacer = paced(place, found)
    for _ in range(20):
        pacer.count("test/challenger", "few", 0.1, 0.5)
        pacer.count("test/incumbent", "many", 100.0, 0.5)
        pacer.count("test/incumbent", "another", 7.0, 0.5)
    pacer.refresh(found)
    assert pacer.prices("test/challenger", "few") == {"search": 0.2, "video": 0.2}
    assert pacer.prices("test/challenger", "many") == {"search": 200.0, "video": 200.0}
    assert pacer.prices("test/challenger", "none") is None and not pacer.faults


def test_a_budget_without_usable_forecasts_is_reported(place: Place) -> None:
    found = of({"campaign": "*", "channel": "*", "amount": 200.0, "period": "day"})
    _, pacer = paced(place, found)
    for _ in range(500):
        assert not pacer.faults
        pacer.count("test/challenger", "c", 0.1, 0.0)
    pacer.refresh(found)
    assert len(pacer.faults) == 2 and all("set `price`" in fault for fault in pacer.faults)
    for _ in range(20):
        pacer.count("test/challenger", "c", 0.1, 0.5)
    pacer.refresh(found)
    assert not pacer.faults and pacer.prices("test/challenger", "c") == {"search": 0.2, "video": 0.2}


@pytest.mark.parametrize("text", ["{", '[{"at":1,"spent":1,"multiplier":1,"price_unit":1},0.5,0,3,0,0,0]'])
def test_an_unreadable_state_is_replaced(place: Place, text: str) -> None:
    ledger = place.open()
    define(ledger, of(day()))
    lease = ledger.pacing.lease("before")
    assert ledger.pacing.publish(lease, {'["test/challenger","*","*","day"]': text}, Prices.of({}))
    ledger.pacing.lease("", lease)
    pacer = Pacer(ledger, CHANNELS, place.clock)
    pacer.refresh(of(day()))
    assert pacer.prices("test/challenger", "c") == {"search": 0.5, "video": 0.5}


class Market:
    """A simulated market with one opportunity a minute, of a random arm and router."""

    def __init__(self, place: Place, found: Experiments, routers: int = 1) -> None:
        self.place, self.ledger, self.number = place, place.open(), 0
        self.pacers = [Pacer(place.open(), CHANNELS, steady(place)) for _ in range(routers)]
        self.pacer = self.pacers[0]
        self.set(found)

    def set(self, found: Experiments) -> None:
        self.found = found
        define(self.ledger, found)
        for pacer in self.pacers:
            pacer.refresh(found)

    def run(self, opportunities: int) -> dict[str, float]:
        chance, had, shown = random.Random(self.number), Counter[str](), Counter[str]()
        for number in range(self.number, self.number + opportunities):
            self.place.clock.now += 60.0
            shares, pacer = next(iter(self.found)).shares(), chance.choice(self.pacers)
            (arm,) = chance.choices([f"test/{name}" for name in shares], list(shares.values()))
            gain, cost = chance.lognormvariate(-2.5, 0.8), chance.uniform(0.05, 0.15)
            pacer.count(arm, "c", None, None)
            had[arm] += 1
            price = (pacer.prices(arm, "c") or {}).get("video", 0.0)
            if gain >= price * cost and reserve(self.ledger, f"m{number}", arm, "c", "video", 0.15):
                settle(self.ledger, f"m{number}", cost)
                shown[arm] += 1
            if number % 5 == 0 or pacer.due():
                pacer.refresh(self.found)
        self.number += opportunities
        return {arm: shown[arm] / number for arm, number in had.items()}

    def spent(self) -> dict[str, float]:
        return {b.arm: b.spent / b.limit for b in self.ledger.balances() if b.limit}


def week(amount: float, **changes: Any) -> Experiments:
    span = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-08T00:00:00Z"}
    budgets = [{"campaign": "*", "channel": "*", "amount": amount, "pacing": {"price": 0.8, **span}}]
    return Experiments([Experiment.from_dict(experiment("http://x", budgets=budgets, **changes))])


@pytest.mark.parametrize("routers", [1, 3])
def test_a_total_budget_lasts_for_the_expected_opportunities(place: Place, routers: int) -> None:
    market = Market(place, counted(4000, amount=150.0), routers)
    market.run(2000)
    assert all(abs(share - 0.5) < 0.05 for share in market.spent().values()), market.spent()
    market.run(2000)
    assert all(0.95 < share <= 1 for share in market.spent().values()), market.spent()


@pytest.mark.parametrize("ramp", [partial(counted, 10_000, amount=300.0), partial(week, 300.0)])
def test_after_a_change_of_stage_both_arms_expose_alike(place: Place, ramp: Callable[[str], Experiments]) -> None:
    market = Market(place, ramp(stage="5%"))
    market.run(3000)
    market.set(ramp(stage="50%"))
    shown = market.run(1500)
    assert 0.6 < shown["test/challenger"] / shown["test/incumbent"] < 1.6
    shown = market.run(5500)
    assert 0.8 < shown["test/challenger"] / shown["test/incumbent"] < 1.25
    assert all(share > 0.97 for share in market.spent().values()), market.spent()


@pytest.mark.parametrize(
    "paced", [{"opportunities": 4000}, {"start": "2026-01-01T13:00:00Z", "end": "2026-01-03T13:00:00Z"}]
)
def test_pacing_that_is_switched_on_halfway_spreads_the_rest(place: Place, paced: dict[str, Any]) -> None:
    def total(pacing: dict[str, Any] | None) -> Experiments:
        return of({"campaign": "*", "channel": "*", "amount": 150.0, "pacing": pacing})

    market = Market(place, total(None))
    market.run(800)
    market.set(total({"price": 0.8, **paced}))
    shown = [market.run(1000) for _ in range(2)]
    assert all(0.1 < share < 0.5 for some in shown for share in some.values()), shown


def test_an_account_that_another_router_does_not_know_keeps_its_state(place: Place) -> None:
    """Another router leads meanwhile, whose experiment file lacks the account's budget."""
    both, before = of(*next(iter(counted(4000))).model_dump()["budgets"], day(campaign="x")), of(day(campaign="x"))
    market = Market(place, both)
    market.run(1000)
    states = market.ledger.pacing.states()
    market.pacer.release()
    other = Pacer(place.open(), CHANNELS, steady(place))
    place.clock.now += 10
    other.refresh(before)
    other.release()
    market.run(1000)
    assert market.ledger.pacing.states().keys() == states.keys()
    assert sum(market.ledger.pacing.reports()[0].values()) == pytest.approx(2000, abs=25)


def test_one_account_that_can_not_be_paced_stops_no_other(place: Place, monkeypatch: Any) -> None:
    found = of(day(), day(campaign="x", traffic=[1.0] * 24))
    market = Market(place, found)
    pacer, balances = market.pacer, market.ledger.balances()
    broken = [
        replace(b, limit=float("inf")) if b.campaign == "x" and b.arm == "test/challenger" else b for b in balances
    ]
    place.clock.now += 10
    monkeypatch.setattr(pacer._ledger, "balances", lambda: broken)
    pacer.refresh(found)
    assert len(pacer.faults) == 1 and "campaign x" in pacer.faults[0]
    assert pacer.prices("test/incumbent", "x") is not None and pacer.prices("test/challenger", "c") is not None
    assert (pacer.prices("test/challenger", "x") or {})["video"] == pytest.approx(1.0, rel=0.1), "its price stays"


def test_an_arm_without_free_money_at_a_change_is_stopped_only_until_costs_arrive(place: Place) -> None:
    """Costs are reported hours later. Until then, the largest possible costs are reserved."""
    market = Market(place, week(10.0))
    for number in range(33):
        assert reserve(market.ledger, f"r{number}", "test/challenger", "c", "video", 0.15)
    market.set(week(10.0, stage="5%"))
    assert market.pacer.by_arm()["test/challenger"] == 0.8 * STOP_MULTIPLIER
    for number in range(33):
        settle(market.ledger, f"r{number}", 0.01)
    place.clock.now += 60.0
    market.pacer.refresh(market.found)
    assert market.pacer.by_arm()["test/challenger"] == pytest.approx(0.8)


def test_a_clock_that_was_ahead_is_forgotten(place: Place) -> None:
    found = week(300.0)
    market = Market(place, found)
    market.run(500)
    place.clock.now += 30 * DAY
    for _ in range(10):
        market.pacer.refresh(found)
    place.clock.now -= 30 * DAY
    market.run(1000)
    shown = [share for _ in range(4) for share in market.run(1000).values()]
    assert all(0.1 < share < 0.6 for share in shown), shown


def test_nothing_is_exposed_outside_the_period_of_a_total_budget(place: Place) -> None:
    place.clock.now = MIDNIGHT - 5 * HOUR
    market = Market(place, week(300.0))
    assert set(market.run(250).values()) == {0.0} and not market.pacer.pace(), "no arm is behind"
    assert all(share > 0 for share in market.run(250).values()) and len(market.pacer.pace()) == 2
    place.clock.now = MIDNIGHT + 7 * DAY
    market.pacer.refresh(market.found)
    assert set(market.run(100).values()) == {0.0} and not market.pacer.pace()


def test_calls_of_a_refresh_grow_linearly_with_the_campaigns(place: Place) -> None:
    """A comparison of all pairs would need sixteen times as many calls for four times the campaigns."""

    def calls(campaigns: int) -> int:
        rows = "".join(f"c{number},*,200,day,0.5\n" for number in range(campaigns))
        table = BudgetTable("budgets.csv", f"campaign,channel,amount,period,price\n{rows}".encode())
        found = Experiments([Experiment.from_dict(experiment("http://x", budgets=[], budget_table=table))])
        _, pacer = paced(place, found)
        place.clock.now += 6  # each account is due again
        (profile := cProfile.Profile()).runcall(pacer.refresh, found)
        pacer.release()  # so that the next pacer leads
        return pstats.Stats(profile).total_calls

    assert calls(600) < 6 * calls(150)
