"""What every ledger promises, asked of both: spent + reserved never exceeds the limit, whatever is repeated."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.policy.periods import PERIODS, Period
from serving.ledger import (
    Account,
    AlreadyReserved,
    Balance,
    Ledger,
    UnknownReservation,
    Wanted,
    money,
    open_ledger,
    redis_ledger,
    sqlite_ledger,
)
from serving.ledger.contract import RETENTION_SECONDS, SETTLED_SECONDS, Settlement
from serving.ledger.redis_ledger import RedisLedger
from tests.redis_server import redis_server
from tests.serving.ledgers import KINDS, NOON, Clock, Place, balance

DAY, HOUR = 86_400.0, 3_600.0


@pytest.fixture(params=[*KINDS, "cluster"])
def place(request: pytest.FixtureRequest, tmp_path: Path, lasting_redis: int) -> Place:
    port = request.getfixturevalue("lasting_cluster") if request.param == "cluster" else lasting_redis
    return Place(request.param, tmp_path, port)


@pytest.fixture
def ledger(place: Place) -> Ledger:
    ledger = place.open()
    ledger.define([Account("a", "*", "*", 10.0), Account("a", "c1", "video", 1.0), Account("b", "*", "*", 5.0)])
    return ledger


def test_a_reservation_draws_on_every_matching_account_and_on_no_other(ledger: Ledger) -> None:
    assert ledger.reserve("r1", "a", "c1", "video", 0.4)
    assert ledger.reserve("r2", "a", "c2", "video", 0.5)
    assert balance(ledger).reserved == 0.9
    assert balance(ledger, "a", "c1", "video").reserved == 0.4
    assert balance(ledger, "b").reserved == 0


def test_all_matching_accounts_or_none(ledger: Ledger) -> None:
    assert not ledger.reserve("r1", "a", "c1", "video", 1.5)  # the wildcard account would have had room
    assert [b.reserved for b in ledger.balances()] == [0, 0, 0]
    assert ledger.open_reservations() == []


def test_costs_beyond_all_measure_do_not_stop_the_ledger(ledger: Ledger) -> None:
    for number in range(3):
        assert ledger.reserve(f"r{number}", "a", "c1", "video", 0.1)
        for event in range(12):
            assert ledger.settle(f"r{number}", 1e9, f"e{event}").charged == 0.1
    assert balance(ledger).spent == pytest.approx(0.3) and balance(ledger).excess >= 9e9
    assert ledger.reserve("next", "a", "c1", "video", 0.1) and ledger.settle("next", 0.05, "e").charged == 0.05
    assert balance(ledger).reserved == 0


def test_money_that_nobody_granted_is_refused(ledger: Ledger) -> None:
    assert not ledger.reserve("r1", "unheard-of", "c1", "video", 0.0)


def test_the_last_cent_can_be_reserved_and_not_one_more(ledger: Ledger) -> None:
    assert all(ledger.reserve(f"r{i}", "b", "c", "x", 0.1) for i in range(50))  # 50 * 0.1 is not 5.0 in floats
    assert balance(ledger, "b").reserved == 5.0
    assert not ledger.reserve("more", "b", "c", "x", 1e-9)


def test_a_request_is_paid_for_once_and_whoever_failed_makes_room(ledger: Ledger, place: Place) -> None:
    other = place.open()
    assert ledger.reserve("r1", "a", "c1", "video", 0.1, "q")
    assert ledger.reserve("r1", "a", "c1", "video", 0.1, "q")  # the same attempt
    for attempt, channel in (("r2", "video"), ("r3", "search")):
        with pytest.raises(AlreadyReserved):
            other.reserve(attempt, "a", "c1", channel, 0.1, "q")
    assert other.reserve("r4", "a", "c1", "video", 0.1, "another") and other.reserve("r5", "a", "c1", "video", 0.1)
    other.cancel("r2")  # an attempt that did not get it takes nothing with it
    assert balance(ledger).reserved == pytest.approx(0.3)
    ledger.cancel("r1")
    assert other.reserve("r6", "a", "c1", "video", 0.1, "q")
    other.settle("r6", 0.05)
    with pytest.raises(AlreadyReserved):
        ledger.reserve("r7", "a", "c1", "video", 0.1, "q")
    assert balance(ledger).spent == 0.05 and balance(ledger).reserved == pytest.approx(0.2)
    other.cancel("r4")
    ledger.settle("r4", 0.05)  # it was shown after all
    with pytest.raises(AlreadyReserved):
        other.reserve("r8", "a", "c1", "video", 0.1, "another")


def test_reservations_that_come_together_are_each_granted_for_itself(ledger: Ledger) -> None:
    def wanted(name: str, amount: float = 0.4, request: str | None = None) -> Wanted:
        return Wanted(name, "a", "c1", "video", amount, request)

    asked = [wanted("r1", request="q"), wanted("r2", request="q"), wanted("r3", math.nan), wanted("r1", request="q")]
    first, twice, no_money, again, second, too_much = ledger.reserve_all([*asked, wanted("r4"), wanted("r5")])
    assert (first, again, second, too_much) == (True, True, True, False)
    assert isinstance(twice, AlreadyReserved) and isinstance(no_money, ValueError)
    assert balance(ledger, "a", "c1", "video").reserved == 0.8
    assert sorted(ledger.open_reservations()) == ["r1", "r4"] and ledger.reserve_all([]) == []


# Calls on a reservation of 0.4: what the last one answers; spent, reserved and excess in its accounts afterwards.
HISTORIES: dict[str, tuple[list[tuple[Any, ...]], Settlement | None, tuple[float, float, float]]] = {
    "the actual cost is charged": ([("settle", 0.3)], Settlement(0.3, 0.0), (0.3, 0.0, 0.0)),
    "a cost above it is shown": ([("settle", 0.7)], Settlement(0.4, 0.3), (0.4, 0.0, 0.3)),
    "costs of events add up": (
        [("settle", 0.1, "e1"), ("settle", 0.2, "e2"), ("settle", 0.3, "e3")],
        Settlement(0.4, 0.2),
        (0.4, 0.0, 0.2),
    ),
    "an event counts once": ([("settle", 0.1, "e"), ("settle", 0.2, "e")], Settlement(0.1, 0.0), (0.1, 0.0, 0.0)),
    "what is settled is not cancelled": ([("settle", 0.3), ("cancel",)], None, (0.3, 0.0, 0.0)),
    "a cancellation releases it": ([("cancel",)], None, (0.0, 0.0, 0.0)),
    "a cost after a cancellation": ([("cancel",), ("settle", 0.2)], Settlement(0.0, 0.2), (0.0, 0.0, 0.2)),
    "a cost after its expiry": ([("expire",), ("settle", 0.7)], Settlement(0.4, 0.3), (0.4, 0.0, 0.3)),
}


@pytest.mark.parametrize("history", HISTORIES)
def test_what_becomes_of_a_reservation(ledger: Ledger, history: str) -> None:
    """Each call is made twice, and the second changes nothing."""
    calls, answer, amounts = HISTORIES[history]
    assert ledger.reserve("r1", "a", "c1", "video", 0.4) and ledger.reserve("r1", "a", "c1", "video", 0.4)
    assert balance(ledger).reserved == 0.4
    found: Any = None
    for name, *arguments in calls:
        for _ in range(2):
            found = ledger.expire(0) if name == "expire" else getattr(ledger, name)("r1", *arguments)
    assert found == answer and ledger.open_reservations() == []
    for account in (balance(ledger), balance(ledger, "a", "c1", "video")):
        assert (account.spent, account.reserved, account.excess) == amounts
    assert ledger.reserve("r1", "a", "c1", "video", 0.4) == (calls[0][0] == "settle"), (
        "its money is set aside, or spent"
    )


def test_an_event_may_have_any_name(ledger: Ledger) -> None:
    names = ["*", "**", "e", "", "%", "é\u2028"]
    ledger.reserve("r1", "a", "c1", "video", 0.9)
    for _ in range(2):
        for name in names:
            ledger.settle("r1", 0.1, name)
    assert balance(ledger).spent == 0.6


def test_a_second_cost_takes_no_money_that_others_have_reserved(ledger: Ledger) -> None:
    ledger.reserve("r1", "a", "c1", "video", 0.4)
    ledger.settle("r1", 0.1, "e1")
    assert ledger.reserve("r2", "a", "c1", "video", 0.8)
    assert ledger.settle("r1", 0.3, "e2") == Settlement(0.2, 0.2)
    found = balance(ledger, "a", "c1", "video")
    assert (found.spent, found.reserved, found.excess, found.limit) == (0.2, 0.8, 0.2, 1.0)


def test_a_reservation_that_arrives_after_its_cancellation_finds_nothing(ledger: Ledger) -> None:
    ledger.cancel("late")
    assert not ledger.reserve("late", "a", "c1", "video", 0.1)
    assert balance(ledger).reserved == 0


def test_limits_change_and_spend_stays(ledger: Ledger) -> None:
    ledger.reserve("r1", "b", "c", "x", 3.0)
    ledger.settle("r1", 3.0)
    ledger.define([Account("b", "*", "*", 2.0)])
    assert ledger.balances() == [Balance("b", "*", "*", 2.0, spent=3.0, reserved=0.0, excess=0.0)]
    assert not ledger.reserve("r2", "b", "c", "x", 0.1)
    ledger.define([Account("b", "*", "*", 4.0), Account("a", "*", "*", 10.0)])
    assert ledger.reserve("r2", "b", "c", "x", 0.1)
    assert balance(ledger, "b").spent == 3.0


def test_an_account_that_is_left_out_binds_nobody_until_it_returns(ledger: Ledger) -> None:
    ledger.reserve("r1", "a", "c1", "video", 0.9)
    ledger.define([Account("a", "*", "*", 10.0)])
    assert ledger.reserve("r2", "a", "c1", "video", 2.0)
    ledger.settle("r1", 0.9)  # still charged where it was reserved
    ledger.define([Account("a", "*", "*", 10.0), Account("a", "c1", "video", 1.0)])
    assert balance(ledger, "a", "c1", "video") == Balance("a", "c1", "video", 1.0, 0.9, 0.0, 0.0)


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf, 1e10])
def test_amounts_that_are_no_money(ledger: Ledger, amount: float) -> None:
    with pytest.raises(ValueError, match="amount"):
        ledger.reserve("r", "a", "c", "x", amount)
    with pytest.raises(ValueError, match="limit"):
        ledger.define([Account("a", "*", "*", amount)])
    with pytest.raises(ValueError, match="actual"):
        ledger.settle("r", amount)
    with pytest.raises(ValueError, match="arm"):
        Account("", "*", "*", 1.0)
    with pytest.raises(ValueError, match="period"):
        Account("b", "*", "*", 5.0, "week")  # type: ignore[arg-type]
    with pytest.raises(UnknownReservation, match="r9"):
        ledger.settle("r9", 0.1)


@settings(max_examples=100)
@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_rounding_never_grants_more_than_was_given(limit: float, amount: float) -> None:
    assert money.units(money.limit(limit)) <= limit <= limit + 1e-9
    assert money.units(money.reservation(amount)) >= amount
    assert abs(money.cost(amount) - amount * 1e9) <= 1 + amount * 1e-6


def test_an_id_stands_for_one_scope_and_amount(ledger: Ledger) -> None:
    assert ledger.reserve("r1", "a", "c1", "video", 0.4)
    for scope, amount in [
        (("a", "c1", "video"), 0.9),
        (("a", "c1", "video"), 0.1),
        (("a", "c2", "video"), 0.4),
        (("b", "c1", "video"), 0.4),
        (("a", "c1", "search"), 0.4),
    ]:
        assert not ledger.reserve("r1", *scope, amount)
    assert [b.reserved for b in (balance(ledger), balance(ledger, "b"))] == [0.4, 0.0]
    ledger.settle("r1", 0.4)
    assert ledger.reserve("r1", "a", "c1", "video", 0.4) and not ledger.reserve("r1", "a", "c1", "video", 0.3)


def test_what_nobody_hears_of_expires(ledger: Ledger, place: Place) -> None:
    ledger.reserve("old", "a", "c1", "video", 0.4)
    place.clock.now += HOUR
    ledger.reserve("young", "a", "c1", "video", 0.5)
    ledger.reserve("done", "a", "c1", "video", 0.1)
    ledger.settle("done", 0.1)
    assert ledger.expire(2 * HOUR) == 0
    assert ledger.expire(HOUR) == 1 and ledger.expire(HOUR) == 0
    assert ledger.open_reservations() == ["young"] and balance(ledger).reserved == 0.5
    assert not ledger.reserve("old", "a", "c1", "video", 0.4)
    ledger.cancel("old")
    assert balance(ledger) == Balance("a", "*", "*", 10.0, spent=0.1, reserved=0.5, excess=0.0)


def test_more_expires_at_once_than_fits_a_batch(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sqlite_ledger, redis_ledger):
        monkeypatch.setattr(module, "_BATCH", 4)
    for i in range(13):
        ledger.reserve(f"r{i}", "b", "c", "x", 0.001)
    assert ledger.expire(0, most=6) == 6 and balance(ledger, "b").reserved == 0.007
    assert ledger.expire(0) == 7
    assert balance(ledger, "b").reserved == 0 and ledger.open_reservations() == []


def test_a_cost_after_the_expiry_is_charged_while_there_is_room(ledger: Ledger) -> None:
    ledger.reserve("r1", "a", "c1", "video", 0.4)
    ledger.reserve("r2", "a", "c1", "video", 0.4)
    assert ledger.expire(0) == 2
    assert ledger.settle("r1", 0.3) == ledger.settle("r1", 0.1) == Settlement(charged=0.3, excess=0.0)
    ledger.reserve("r3", "a", "c1", "video", 0.6)
    assert ledger.settle("r2", 0.3) == ledger.settle("r2", 0.3) == Settlement(charged=0.1, excess=0.2)
    for found in (balance(ledger), balance(ledger, "a", "c1", "video")):  # one cost, the same in all accounts
        assert (found.spent, found.reserved, found.excess) == (0.4, 0.6, 0.2)
    assert not ledger.reserve("r1", "a", "c1", "video", 0.4)


def test_a_daily_limit_holds_for_each_day_anew(ledger: Ledger, place: Place) -> None:
    ledger.define([Account("a", "*", "*", 1.5), Account("a", "*", "*", 1.0, "day")])
    assert ledger.reserve("r1", "a", "c", "x", 1.0) and not ledger.reserve("r2", "a", "c", "x", 0.1)
    place.clock.now = NOON + DAY / 2 - 0.001
    assert not ledger.reserve("r2", "a", "c", "x", 0.1)
    place.clock.now = NOON + DAY / 2
    assert balance(ledger, period="day") == Balance(
        "a", "*", "*", 1.0, 0.0, 0.0, 0.0, "day", int(place.clock.now // DAY * DAY)
    )
    assert ledger.reserve("r2", "a", "c", "x", 0.5)
    assert not ledger.reserve("r3", "a", "c", "x", 0.1)  # the day would have room, the whole has not
    assert balance(ledger, period="day").reserved == 0.5 and balance(ledger).reserved == 1.5


def test_a_reservation_is_settled_in_its_own_period(ledger: Ledger, place: Place) -> None:
    ledger.define([Account("a", "*", "*", 1.0, "hour")])
    for name in ("settled", "cancelled", "expired"):
        ledger.reserve(name, "a", "c", "x", 0.3)
    place.clock.now += HOUR
    assert ledger.reserve("now", "a", "c", "x", 1.0)
    ledger.settle("settled", 0.2)
    ledger.cancel("cancelled")
    assert ledger.expire(HOUR) == 1
    assert ledger.settle("expired", 0.25) == Settlement(0.25, 0.0)  # the hour it was made in has room
    assert balance(ledger, period="hour") == Balance("a", "*", "*", 1.0, 0.0, 1.0, 0.0, "hour", int(place.clock.now))
    assert place.books()["a", "*", "*", "hour", str(int(place.clock.now - HOUR))] == [450_000_000, 0, 0]


def test_a_clock_that_jumps_grants_no_limit_twice(ledger: Ledger, place: Place) -> None:
    """Forward and back: the next period has begun too early, and lasts until it is over."""
    ledger.define([Account("a", "*", "*", 1.0, "hour"), Account("a", "*", "*", 9.0, "day")])
    granted = []
    for number, jump in enumerate((0, HOUR, -HOUR, -3 * DAY, 2 * DAY + 23 * HOUR, HOUR + HOUR, HOUR)):
        place.clock.now += jump
        if ledger.reserve(f"r{number}", "a", "c", "x", 1.0):
            ledger.settle(f"r{number}", 1.0)
            granted.append((place.clock.now - NOON) / HOUR)
        assert balance(ledger, period="hour").spent == 1.0
        assert not ledger.reserve(f"more{number}", "a", "c", "x", 0.01)
        ledger.define([Account("a", "*", "*", 1.0, "hour"), Account("a", "*", "*", 9.0, "day")])
    assert granted == [0, 1, 2]
    assert balance(ledger, period="day").spent == 3.0


def test_a_day_is_the_budgets_own(ledger: Ledger, place: Place) -> None:
    """In Berlin, 2026-03-29 has 23 hours and 2026-10-25 has 25."""
    ledger.define([Account("a", "*", "*", 1.0, "day", "Europe/Berlin")])
    for midnight, hours in ((1_774_738_800, 23), (1_792_879_200, 25)):
        for moment, granted in ((0, True), (hours * HOUR - 1, False), (hours * HOUR, True)):
            place.clock.now = midnight + moment
            name = str(place.clock.now)
            assert ledger.reserve(name, "a", "c", "x", 1.0) == granted
            assert balance(ledger, period="day").start == (midnight if moment < hours * HOUR else place.clock.now)


WESTWARDS = (
    "UTC",
    "Atlantic/Azores",
    "Atlantic/South_Georgia",
    "America/Sao_Paulo",
    "America/New_York",
    "America/Chicago",
    "America/Denver",
    "America/Los_Angeles",
    "Pacific/Honolulu",
    "Asia/Tokyo",
    "Europe/Berlin",
)


@pytest.mark.parametrize("hours", [0, 1])
def test_another_time_zone_opens_no_second_day(ledger: Ledger, place: Place, hours: int) -> None:
    """Noon, UTC, and while the clock stands still or goes on: it used to grant a day in each zone."""
    start = int(NOON) - 12 * HOUR
    for zone in WESTWARDS:
        ledger.define([Account("*", "*", "*", 1.0, "day", zone), Account("a", "*", "*", 1.0, "day", zone)])
        assert ledger.reserve(zone, "a", "c", "x", 1.0) == (zone == "UTC")
        assert {b.start for b in ledger.balances()} == {start} and {b.reserved for b in ledger.balances()} == {1.0}
        place.clock.now += hours * HOUR


def test_a_budget_that_comes_back_in_another_time_zone_goes_on(ledger: Ledger, place: Place) -> None:
    ledger.define([Account("a", "*", "*", 1.0, "day")])
    assert ledger.reserve("r1", "a", "c", "x", 1.0)
    ledger.define([Account("a", "*", "*", 9.0)])
    place.clock.now += 11 * HOUR  # an hour into the day of Berlin
    ledger.define([Account("a", "*", "*", 1.0, "day", "Europe/Berlin")])
    assert not ledger.reserve("r2", "a", "c", "x", 0.1)


# Zone, hours after noon UTC, and whether a limit that was spent at noon is granted anew. Midnight in Tokyo is at 15:00
# UTC, too soon after the one that began the day; Kathmandu's hours begin at a quarter past.
CHANGES: dict[Period, list[tuple[str, float, bool]]] = {
    "day": [
        *(("Asia/Tokyo", hours, hours == 27) for hours in (0, 3, 27 - 1e-3, 27)),
        *(("UTC", hours, hours == 60) for hours in (27, 36, 60)),
    ],
    "hour": [("Asia/Kathmandu", 14 / 60, False), ("Asia/Kathmandu", 0.25, False), ("Asia/Kathmandu", 1.25, True)],
}


@pytest.mark.parametrize("period", CHANGES)
def test_a_change_of_time_zone_grants_nothing_twice(ledger: Ledger, place: Place, period: Period) -> None:
    for number, (zone, hours, granted) in enumerate([("UTC", 0, True), *CHANGES[period]]):
        place.clock.now = NOON + hours * HOUR
        ledger.define([Account("a", "*", "*", 1.0, period, zone)])
        assert ledger.reserve(str(number), "a", "c", "x", 1.0) == granted, (zone, hours)


def test_another_time_zone_leaves_each_arm_its_limit(ledger: Ledger) -> None:
    """It used to divide anew what was left, so that an arm which had spent its part got more."""
    for zone in ("UTC", "Asia/Tokyo"):
        limits = {"*": 2.0, "a": 1.0, "b": 1.0}
        ledger.define([Account(arm, "*", "*", limit, "day", zone) for arm, limit in limits.items()])
        ledger.reserve("r1", "a", "c", "x", 1.0)
        ledger.settle("r1", 1.0)
    assert balance(ledger, "a", period="day").limit == balance(ledger, "b", period="day").limit == 1.0


def test_nothing_expires_before_its_time_when_the_clock_jumps_back(ledger: Ledger, place: Place) -> None:
    ledger.reserve("r1", "a", "c1", "video", 0.4)
    place.clock.now -= 10 * DAY
    assert ledger.expire(DAY) == 0
    place.clock.now += 30 * DAY
    assert ledger.expire(DAY) == 1
    place.clock.now -= 30 * DAY
    assert ledger.expire(DAY) == 0 and balance(ledger).reserved == 0


@pytest.mark.parametrize("jump", [25 * HOUR, 365 * DAY])
def test_a_clock_that_is_put_forward_grants_no_money_again_whose_cost_is_on_its_way(place: Place, jump: float) -> None:
    """It said for some seconds that the reservations of the last day were older: 17.95 of 12 were spent."""
    steady = place.steady = Clock()
    ledger = place.open()
    ledger.define([Account("*", "*", "*", 1.0), Account("a", "*", "*", 1.0)])

    def pass_time(seconds: float) -> None:
        place.clock.now += seconds
        steady.now += seconds

    assert ledger.reserve("r1", "a", "c", "x", 0.75)
    pass_time(HOUR)
    for seconds in (jump, -jump, jump):
        place.clock.now += seconds
        pass_time(1.0)
        assert ledger.expire(DAY) == 0 and not ledger.reserve(f"{seconds}", "a", "c", "x", 0.75)
    pass_time(22 * HOUR)
    assert ledger.expire(DAY) == 0
    pass_time(2 * HOUR)  # the jumps are a day ago, too
    assert ledger.expire(DAY) == 1
    assert balance(ledger, "a").reserved == 0.0
    assert ledger.settle("r1", 0.75) == Settlement(0.75, 0.0)


def test_finished_reservations_are_forgotten_and_their_cost_is_not(ledger: Ledger, place: Place) -> None:
    ages = {"settled": SETTLED_SECONDS, "late": SETTLED_SECONDS, "cancelled": RETENTION_SECONDS}
    ages |= {"expired": RETENTION_SECONDS, "never": RETENTION_SECONDS}
    for name in ("settled", "late", "cancelled", "expired"):
        ledger.reserve(name, "a", "c1", "video", 0.1)
    ledger.settle("settled", 0.1)
    for name in ("late", "cancelled", "never"):
        ledger.cancel(name)
    ledger.settle("late", 0.2)
    ledger.expire(0)
    ledger.reserve("open", "a", "c1", "video", 0.3)
    if isinstance(ledger, RedisLedger):
        with place.client() as client:
            for name, age in ages.items():
                assert age - 60 < client.ttl(f"{ledger._group_of(name)}r:{name}") <= age, name
            assert client.ttl(f"{ledger._group_of('open')}r:open") == -1
        return
    for name, age in sorted(ages.items(), key=lambda item: item[1]):
        place.clock.now = NOON + age
        ledger.expire(8 * DAY)
        assert not ledger.reserve(name, "a", "c2", "video", 0.0)  # another scope: it is known
    place.clock.now = NOON + SETTLED_SECONDS + 1
    ledger.expire(8 * DAY)
    assert [ledger.reserve(name, "a", "c2", "video", 0.0) for name in ages] == [True, True, False, False, False]
    place.clock.now = NOON + RETENTION_SECONDS + 1
    ledger.expire(8 * DAY)
    with pytest.raises(UnknownReservation):
        ledger.settle("expired", 0.3)
    assert balance(ledger) == Balance("a", "*", "*", 10.0, spent=0.1, reserved=0.3, excess=0.2)
    assert ledger.settle("open", 0.3) == Settlement(0.3, 0.0)


def test_a_request_is_remembered_as_long_as_its_reservation(tmp_path: Path, lasting_redis: int) -> None:
    place = Place("redis", tmp_path, lasting_redis)
    ledger = place.open()
    ledger.define([Account("a", "*", "*", 10.0)])
    with place.client() as client:

        def remembered(name: str) -> int:
            return int(client.ttl(f'{{mtorl-ledger:{place.name}}}:q:"{name}"'))

        for name in ("open", "settled", "cancelled", "taken"):
            assert ledger.reserve(name, "a", "c", "x", 0.1, name)
            assert remembered(name) == -1, "until it is finished"
        ledger.settle("settled", 0.1)
        ledger.cancel("cancelled")
        ledger.cancel("taken")
        assert ledger.reserve("next", "a", "c", "x", 0.1, "taken") and remembered("taken") == -1
        ledger.settle("taken", 0.1)  # it was shown after all, which must not end the request of the next one
        assert remembered("taken") == -1
        ledger.settle("settled", 0.1, "later")
        for name, age in (("settled", SETTLED_SECONDS), ("cancelled", RETENTION_SECONDS)):
            assert age - 60 < remembered(name) <= age
        assert ledger.expire(0) == 2 and 0 < remembered("open") <= RETENTION_SECONDS
    assert 2 * RETENTION_SECONDS <= 2 * DAY and SETTLED_SECONDS <= HOUR


@pytest.mark.parametrize("others", [0, 200])
def test_a_decision_costs_as_many_commands_whatever_there_is(tmp_path: Path, others: int) -> None:
    with redis_server(tmp_path, appendonly="yes") as port:
        place = Place("redis", tmp_path, port)
        ledger = open_ledger(place.where, 5.0)
        wholes = [Account(arm, c, "*", 9.0, p) for arm in ("*", "a") for c in ("*", "c") for p in PERIODS]
        ledger.define([*wholes, *(Account("a", f"c{i}", "*", 9.0) for i in range(others))])
        assert ledger.reserve("warm-up", "a", "c", "x", 0.1)
        ledger.settle("warm-up", 0.1)
        with place.client() as client:

            def commands(call: Callable[[], Any]) -> int:
                before = sum(stats["calls"] for stats in client.info("commandstats").values())
                call()
                return sum(stats["calls"] for stats in client.info("commandstats").values()) - before - 1

            assert commands(lambda: ledger.reserve("r1", "a", "c", "x", 0.1, "q")) == 10  # of 12 accounts
            assert commands(lambda: ledger.settle("r1", 0.1, "e")) == 10
            assert commands(ledger.balances) < 20 + others
            assert commands(ledger.balances) == 4, "nothing has changed"
            assert ledger.reserve("r2", "a", "c", "x", 0.1)
            assert commands(ledger.balances) == 6, "a campaign, and all campaigns"


def test_what_is_read_is_what_has_changed(ledger: Ledger, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.define([Account(arm, c, "*", 9.0, p) for arm in "ab" for c in ("*", "c1", "c2") for p in PERIODS[:2]])
    before, changed = ledger.balances(), list[set[str]]()
    read = ledger._changes  # type: ignore[attr-defined]

    def changes(seen: int, **of: str) -> Any:
        number, found = read(seen, **of)
        changed.append(set(found))
        return number, found

    if place.kind == "cluster":
        return  # reads each group
    monkeypatch.setattr(ledger, "_changes", changes)
    other = place.open()
    assert ledger.balances() == before and changed[-1] == set()
    assert other.reserve("r1", "a", "c2", "x", 1.0)
    assert balance(ledger, "a", "c2").reserved == 1.0 and changed[-1] == {"*", "c2"}
    for call in (lambda: other.settle("r1", 0.5), lambda: other.cancel("r1"), lambda: other.settle("r1", 9.0, "late")):
        call()
        assert ledger.balances() == place.open().balances()
    assert balance(ledger, "a", "c2").excess == 8.5
    place.clock.now += DAY
    assert balance(ledger, "b", "c1", period="day").start == place.clock.now // DAY * DAY, "it has begun"
    assert changed[-1] == {"*", "c1", "c2"} and ledger.balances() and changed[-1] == set()
    other.define([Account("a", "c1", "*", 9.0)])
    assert [b.campaign for b in ledger.balances()] == ["c1"]
    assert {b.campaign for b in place.open().balances()} == {"c1"}


def test_names_may_be_anything(ledger: Ledger, place: Place) -> None:
    odd = ['a"b', "c:d\n", "{e}", "é\u2028", "*,", "1:x"]
    ledger.define([Account("a", name, name, 1.0) for name in odd])
    for name in odd:
        assert ledger.reserve(name, "a", name, name, 0.6) and not ledger.reserve(f"{name}!", "a", name, name, 0.6)
        assert ledger.reserve(f"*{name}", "a", name, name, 0.0)
    assert sorted(ledger.open_reservations()) == sorted([*odd, *(f"*{name}" for name in odd)])
    ledger.expire(0)
    assert {b.campaign: b.reserved for b in ledger.balances()} == dict.fromkeys(odd, 0.0)


def test_the_largest_amounts_are_exact_to_the_last_digit(ledger: Ledger, place: Place) -> None:
    ledger.define([Account("b", "*", "*", 9e6)])
    assert ledger.reserve("r1", "b", "c", "x", 8_999_999.5) and ledger.reserve("r5", "b", "c", "x", 0.499999999)
    assert not ledger.reserve("r2", "b", "c", "x", 2e-9)
    assert ledger.reserve("r3", "b", "c", "x", 1e-9)
    assert not ledger.reserve("r4", "b", "c", "x", 1e-9)
    ledger.settle("r1", 9e9)
    assert place.books()["b", "*", "*", "total", "0"] == [8_999_999_500_000_000, 500_000_000, 8_991_000_000_500_000_000]


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    granted: list[str] = []

    def work(worker: int) -> None:
        granted.extend(f"{worker}-{i}" for i in range(20) if ledger.reserve(f"{worker}-{i}", "b", "c", "x", 0.25))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 20 and balance(ledger, "b").reserved == 5.0
