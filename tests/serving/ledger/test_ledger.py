"""Tests that spent + reserved never exceeds a ledger's limit, and a repeated call changes nothing."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.policy.periods import PERIODS, Period
from mtorl.runtime.clock_jumps import ClockJumps
from serving.ledger import money, open_ledger, redis_ledger, sqlite_ledger
from serving.ledger.contract import (
    RETENTION_SECONDS,
    SETTLED_SECONDS,
    Account,
    AlreadyReserved,
    Ledger,
    Settlement,
    UnknownReservation,
    Wanted,
)
from tests.redis_server import redis_server
from tests.serving.ledgers import KINDS, NOON, Clock, Place, balance, cancel, reserve, settle

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


def test_huge_costs_do_not_stop_the_ledger(ledger: Ledger) -> None:
    for number in range(3):
        assert reserve(ledger, f"r{number}", "a", "c1", "video", 0.1)
        for event in range(12):
            assert settle(ledger, f"r{number}", 1e9, f"e{event}").charged == 0.1
    assert balance(ledger).spent == pytest.approx(0.3) and balance(ledger).excess >= 9e9
    assert reserve(ledger, "next", "a", "c1", "video", 0.1) and settle(ledger, "next", 0.05, "e").charged == 0.05
    assert balance(ledger).reserved == 0


def test_a_request_is_paid_once_and_a_cancelled_attempt_makes_room(ledger: Ledger, place: Place) -> None:
    other = place.open()
    assert reserve(ledger, "r1", "a", "c1", "video", 0.1, "q")
    assert reserve(ledger, "r1", "a", "c1", "video", 0.1, "q")  # the same attempt
    for attempt, channel in (("r2", "video"), ("r3", "search")):
        with pytest.raises(AlreadyReserved):
            reserve(other, attempt, "a", "c1", channel, 0.1, "q")
    assert reserve(other, "r4", "a", "c1", "video", 0.1, "another") and reserve(other, "r5", "a", "c1", "video", 0.1)
    cancel(other, "r2")  # a refused attempt has nothing to release
    assert balance(ledger).reserved == pytest.approx(0.3)
    cancel(ledger, "r1")
    assert reserve(other, "r6", "a", "c1", "video", 0.1, "q")
    settle(other, "r6", 0.05)
    with pytest.raises(AlreadyReserved):
        reserve(ledger, "r7", "a", "c1", "video", 0.1, "q")
    assert balance(ledger).spent == 0.05 and balance(ledger).reserved == pytest.approx(0.2)
    cancel(other, "r4")
    # The cost arrives after the cancellation, but the ad was shown.
    settle(ledger, "r4", 0.05)
    with pytest.raises(AlreadyReserved):
        reserve(other, "r8", "a", "c1", "video", 0.1, "another")


def test_reservations_in_one_call_are_granted_independently(ledger: Ledger) -> None:
    def wanted(name: str, request: str | None = None) -> Wanted:
        return Wanted(name, "a", "c1", "video", 0.4, request)

    asked = [wanted("r1", "q"), wanted("r2", "q"), wanted("r1", "q"), wanted("r4"), wanted("r5")]
    first, twice, again, second, too_much = ledger.reserve_all(asked)
    assert (first, again, second, too_much) == (True, True, True, False) and isinstance(twice, AlreadyReserved)
    assert balance(ledger, "a", "c1", "video").reserved == 0.8
    assert sorted(ledger.open_reservations()) == ["r1", "r4"] and ledger.reserve_all([]) == []


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf, 1e10])
def test_invalid_amounts_are_refused(ledger: Ledger, amount: float) -> None:
    with pytest.raises(ValueError, match="amount"):
        reserve(ledger, "r", "a", "c", "x", amount)
    with pytest.raises(ValueError, match="limit"):
        ledger.define([Account("a", "*", "*", amount)])
    with pytest.raises(ValueError, match="actual"):
        settle(ledger, "r", amount)
    with pytest.raises(UnknownReservation, match="r9"):
        settle(ledger, "r9", 0.1)


@settings(max_examples=100)
@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_rounding_never_grants_more_than_was_given(limit: float, amount: float) -> None:
    assert money.units(money.limit(limit)) <= limit <= limit + 1e-9
    assert money.units(money.reservation(amount)) >= amount
    assert abs(money.cost(amount) - amount * 1e9) <= 1 + amount * 1e-6


def test_an_id_stands_for_one_scope_and_amount(ledger: Ledger) -> None:
    assert reserve(ledger, "r1", "a", "c1", "video", 0.4)
    for scope, amount in [
        (("a", "c1", "video"), 0.9),
        (("a", "c1", "video"), 0.1),
        (("a", "c2", "video"), 0.4),
        (("b", "c1", "video"), 0.4),
        (("a", "c1", "search"), 0.4),
    ]:
        assert not reserve(ledger, "r1", *scope, amount)
    assert [b.reserved for b in (balance(ledger), balance(ledger, "b"))] == [0.4, 0.0]
    settle(ledger, "r1", 0.4)
    assert reserve(ledger, "r1", "a", "c1", "video", 0.4) and not reserve(ledger, "r1", "a", "c1", "video", 0.3)


def test_reservations_expire_in_batches(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sqlite_ledger, redis_ledger):
        monkeypatch.setattr(module, "_BATCH", 4)
    for i in range(13):
        reserve(ledger, f"r{i}", "b", "c", "x", 0.001)
    assert [ledger.expire(0) for _ in range(5)] == [4, 4, 4, 1, 0]
    assert balance(ledger, "b").reserved == 0 and ledger.open_reservations() == []


def test_a_day_is_that_of_the_budgets_time_zone(ledger: Ledger, place: Place) -> None:
    """In Berlin, 2026-03-29 has 23 hours and 2026-10-25 has 25 hours."""
    ledger.define([Account("a", "*", "*", 1.0, "day", "Europe/Berlin")])
    for midnight, hours in ((1_774_738_800, 23), (1_792_879_200, 25)):
        for moment, granted in ((0, True), (hours * HOUR - 1, False), (hours * HOUR, True)):
            place.clock.now = midnight + moment
            name = str(place.clock.now)
            assert reserve(ledger, name, "a", "c", "x", 1.0) == granted
            assert balance(ledger, period="day").start == (midnight if moment < hours * HOUR else place.clock.now)


def test_a_budget_that_returns_in_another_time_zone_continues(ledger: Ledger, place: Place) -> None:
    ledger.define([Account("a", "*", "*", 1.0, "day")])
    assert reserve(ledger, "r1", "a", "c", "x", 1.0)
    ledger.define([Account("a", "*", "*", 9.0)])
    place.clock.now += 11 * HOUR  # an hour into the day of Berlin
    ledger.define([Account("a", "*", "*", 1.0, "day", "Europe/Berlin")])
    assert not reserve(ledger, "r2", "a", "c", "x", 0.1)


# Each entry has the new time zone, the hours since noon UTC, and whether a limit spent at noon is available again. The
# first midnight in Tokyo, at 15:00 UTC, would make the day too short, so the day lasts until the next midnight.
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
        assert reserve(ledger, str(number), "a", "c", "x", 1.0) == granted, (zone, hours)


def test_an_arm_that_returns_to_an_earlier_period_finds_what_it_spent_there(ledger: Ledger, place: Place) -> None:
    both = [Account("*", "*", "*", 1.0, "day"), Account("a", "*", "*", 1.0, "day")]
    ledger.define(both)
    assert reserve(ledger, "r1", "a", "c", "x", 1.0)
    settle(ledger, "r1", 1.5)
    first = balance(ledger, period="day")
    ledger.define([Account(each.arm, "*", "*", 1.0, "day", "Pacific/Pago_Pago") for each in both])  # until 11:00 UTC
    ledger.define(both[1:])
    place.clock.now += 12.5 * HOUR
    assert balance(ledger, period="day").spent == 0.0
    ledger.define(both)
    assert balance(ledger, period="day") == first
    assert not reserve(ledger, "r2", "a", "c", "x", 0.1)


def test_another_time_zone_leaves_each_arm_its_limit(ledger: Ledger) -> None:
    """A change of the time zone must not give new money to an arm that has spent its limit."""
    for zone in ("UTC", "Asia/Tokyo"):
        limits = {"*": 2.0, "a": 1.0, "b": 1.0}
        ledger.define([Account(arm, "*", "*", limit, "day", zone) for arm, limit in limits.items()])
        reserve(ledger, "r1", "a", "c", "x", 1.0)
        settle(ledger, "r1", 1.0)
    assert balance(ledger, "a", period="day").limit == balance(ledger, "b", period="day").limit == 1.0


@pytest.mark.parametrize("jump", [25 * HOUR, 365 * DAY])
def test_a_clock_that_jumps_forward_expires_no_recent_reservation(place: Place, jump: float) -> None:
    """Once, a clock that was ahead for seconds expired reservations, which were then overspent."""
    steady, ledger = Clock(), place.open()
    ledger._jumps = ClockJumps(steady)  # type: ignore[attr-defined]
    ledger.define([Account("*", "*", "*", 1.0), Account("a", "*", "*", 1.0)])

    def pass_time(seconds: float) -> None:
        place.clock.now += seconds
        steady.now += seconds

    assert reserve(ledger, "r1", "a", "c", "x", 0.75)
    pass_time(HOUR)
    for seconds in (jump, -jump, jump):
        place.clock.now += seconds
        pass_time(1.0)
        assert ledger.expire(DAY) == 0 and not reserve(ledger, f"{seconds}", "a", "c", "x", 0.75)
    pass_time(22 * HOUR)
    assert ledger.expire(DAY) == 0
    # Only now are the clock's jumps more than a day ago as well.
    pass_time(2 * HOUR)
    assert ledger.expire(DAY) == 1
    assert balance(ledger, "a").reserved == 0.0
    assert settle(ledger, "r1", 0.75) == Settlement(0.75, 0.0)


@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_redis_forgets_what_was_finished_long_ago(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    place = Place(kind, tmp_path, request.getfixturevalue(f"lasting_{kind}"))
    ledger: Any = place.open()
    ledger.define([Account("a", "*", "*", 10.0)])
    with place.client() as client:

        def remembered(name: str) -> list[int]:
            return [client.ttl(f"{ledger._group_of(name)}{key}") for key in (f"r:{name}", f'q:"{name}"')]

        for name in ("open", "settled", "cancelled", "late", "taken"):
            assert reserve(ledger, name, "a", "c", "x", 0.1, name)
            assert remembered(name) == [-1, -1], "no expiry time while it is open"
        settle(ledger, "settled", 0.1)
        for name in ("cancelled", "late", "taken", "never"):
            cancel(ledger, name)
        settle(ledger, "late", 0.2)
        assert reserve(ledger, "next", "a", "c", "x", 0.1, "taken") and remembered("taken")[1] == -1
        # A late cost of the first attempt must not end the second.
        settle(ledger, "taken", 0.1)
        assert remembered("taken")[1] == -1
        settle(ledger, "settled", 0.1, "later")
        ages = {"settled": SETTLED_SECONDS, "late": SETTLED_SECONDS, "cancelled": RETENTION_SECONDS}
        for name, age in ages.items():
            assert all(age - 60 < ttl <= age for ttl in remembered(name)), name
        assert RETENTION_SECONDS - 60 < remembered("never")[0] <= RETENTION_SECONDS
        assert ledger.expire(0) == 2 and all(0 < ttl <= RETENTION_SECONDS for ttl in remembered("open"))
    assert 2 * RETENTION_SECONDS <= 2 * DAY and SETTLED_SECONDS <= HOUR


@pytest.mark.parametrize("others", [0, 200])
def test_a_decision_costs_the_same_commands_with_many_accounts(tmp_path: Path, others: int) -> None:
    with redis_server(tmp_path, appendonly="yes") as port:
        place = Place("redis", tmp_path, port)
        ledger = open_ledger(place.where, 5.0)
        wholes = [Account(arm, c, "*", 9.0, p) for arm in ("*", "a") for c in ("*", "c") for p in PERIODS]
        ledger.define([*wholes, *(Account("a", f"c{i}", "*", 9.0) for i in range(others))])
        assert reserve(ledger, "warm-up", "a", "c", "x", 0.1)
        settle(ledger, "warm-up", 0.1)
        with place.client() as client:

            def commands(call: Callable[[], Any]) -> int:
                before = sum(stats["calls"] for stats in client.info("commandstats").values())
                call()
                return sum(stats["calls"] for stats in client.info("commandstats").values()) - before - 1

            assert commands(lambda: reserve(ledger, "r1", "a", "c", "x", 0.1, "q")) == 10  # for 12 accounts
            assert commands(lambda: settle(ledger, "r1", 0.1, "e")) == 10
            assert commands(ledger.balances) < 20 + others
            assert commands(ledger.balances) == 4, "nothing has changed"
            assert reserve(ledger, "r2", "a", "c", "x", 0.1)
            assert commands(ledger.balances) == 6, "one campaign and all campaigns have changed"


def test_names_may_have_any_characters(ledger: Ledger) -> None:
    assert not reserve(ledger, "r0", "unheard-of", "c1", "video", 0.0), "an arm without an account has no money"
    odd = ['a"b', "c:d\n", "{e}", "é\u2028", "*,", "1:x"]
    assert reserve(ledger, "r1", "a", "c2", "video", 0.9)
    for name in [*odd, "*", "", "%"] * 2:
        settle(ledger, "r1", 0.1, name)
    assert balance(ledger).spent == 0.9
    ledger.define([Account("a", name, name, 1.0) for name in odd])
    for name in odd:
        assert reserve(ledger, name, "a", name, name, 0.6) and not reserve(ledger, f"{name}!", "a", name, name, 0.6)
        assert reserve(ledger, f"*{name}", "a", name, name, 0.0)
    assert sorted(ledger.open_reservations()) == sorted([*odd, *(f"*{name}" for name in odd)])
    ledger.expire(0)
    assert {b.campaign: b.reserved for b in ledger.balances()} == dict.fromkeys(odd, 0.0)


def test_the_largest_amounts_are_exact_to_the_last_digit(ledger: Ledger, place: Place) -> None:
    ledger.define([Account("b", "*", "*", 9e6)])
    assert reserve(ledger, "r1", "b", "c", "x", 8_999_999.5) and reserve(ledger, "r5", "b", "c", "x", 0.499999999)
    assert not reserve(ledger, "r2", "b", "c", "x", 2e-9)
    assert reserve(ledger, "r3", "b", "c", "x", 1e-9)
    assert not reserve(ledger, "r4", "b", "c", "x", 1e-9)
    settle(ledger, "r1", 9e9)
    assert place.books()["b", "*", "*", "total", "0"] == [8_999_999_500_000_000, 500_000_000, 8_991_000_000_500_000_000]
