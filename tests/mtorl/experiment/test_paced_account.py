"""Tests that small budget accounts are used up on average."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.experiment.budget import AccountLimit
from mtorl.experiment.paced_account import MOST_SPARE, SPARE, Clock, Kept, Target, first_price, spare, terms_of, updated
from mtorl.policy.pacing import GRAINS, State
from mtorl.policy.schedule import Pacing

DAY, CAP = 86_400.0, 0.4
PACING = Pacing(price=0.5)


def target(part: float, whole: float = 100.0, grain: float = CAP, **changes: Any) -> Target:
    limit = AccountLimit("arm", "*", "*", part, part * whole, "day", "UTC", PACING)
    return Target(limit, terms_of(limit), grain, **{"asks": True, **changes})


def at(of: Target, now: float, committed: float, kept: Kept | None = None, largest: Kept | None = None) -> Kept:
    first, clock = first_price(of.limit, kept), Clock.of_time(of.limit, PACING, now // DAY * DAY, now)
    assert first is not None
    amount = of.limit.limit + spare(of.limit, of.asks, of.grain)
    return updated(of, clock, (amount, committed), kept, first, largest)[0]


@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6), whole=st.floats(0.1, 1e6), grain=st.floats(0.0, 1e3)
)
def test_an_arm_can_overspend_by_at_most_a_few_exposures(weights, whole, grain):
    parts = [weight / sum(weights) for weight in weights]
    spares = [spare(target(part, whole).limit, True, grain) for part in parts]
    most = min(SPARE * grain, MOST_SPARE * whole)
    assert sum(spares) <= (len(parts) - 1) * most * (1 + 1e-9)
    for part, more in zip(parts, spares, strict=True):
        assert part * whole + more <= whole * (1 + 1e-9)
        if len(parts) == 2:
            assert more <= (1 - part) * most * (1 + 1e-9), "the same share of the other's part for any size"


def test_only_paced_parts_have_a_spare_amount():
    limit = target(0.05).limit
    assert spare(limit, True, CAP) == pytest.approx(0.95 * SPARE * CAP)
    for one, asks in ((limit, False), (limit._replace(pacing=None), True), (limit._replace(part=0.0, limit=0.0), True)):
        assert spare(one, asks, CAP) == 0.0


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_a_small_arm_spends_its_part_on_average(share: float) -> None:
    """The arm can pay for only 5 or 25 exposures a day. A hard limit would leave up to 30 % of its budget unspent."""
    of, chance, days, total = target(share), random.Random(1), 60, 0.0
    limit, kept = of.limit.limit + spare(of.limit, True, CAP), None
    for day in range(days):
        spent, now = 0.0, day * DAY
        while now < (day + 1) * DAY:
            kept = at(of, now, spent, kept)
            gain, cost = chance.lognormvariate(-2.9, 0.92), chance.uniform(0.1, 0.3)
            if gain >= kept.price * cost and spent + CAP <= limit:
                spent += cost
            now += chance.expovariate(2_000 * share) * DAY
        assert spent <= limit
        total += spent
    assert total / days / of.limit.limit == pytest.approx(1.0, abs=0.03)


def test_the_largest_account_gives_a_small_one_its_first_price() -> None:
    small, noon = target(0.05), DAY / 2
    large = at(target(0.95), 0.0, 0.0)
    large = large._replace(state=replace(large.state, multiplier=2.0))
    found = at(small, noon, 0.0, largest=large)
    assert found.price == pytest.approx(1.0)
    assert at(small, noon, 0.0).price == pytest.approx(0.5)
    mad = large._replace(state=replace(large.state, multiplier=30.0))
    assert at(small, noon, 0.0, found, mad).price == pytest.approx(0.5), "the price of an arm that ignores prices"
    ample = large._replace(state=replace(large.state, multiplier=0.0))
    assert at(small, noon, 0.0, largest=ample).price == pytest.approx(0.05), "the budget exceeds the opportunities"
    later = at(small, noon + 60, 0.0, found._replace(learned=GRAINS * CAP), large._replace(state=State(0, 0, 3, 0.5)))
    assert later.price == pytest.approx(1.0, abs=0.01), "the account has learned its own price by then"
