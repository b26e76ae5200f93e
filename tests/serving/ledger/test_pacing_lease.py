"""Tests that one router writes the prices, the others read them, and a dead router is replaced."""

from array import array
from pathlib import Path
from typing import Any

import pytest

from mtorl.experiment.layers import Experiments
from serving.ledger import pacer as pacer_module
from serving.ledger.pacer import SILENT_SECONDS, Pacer
from serving.ledger.pacing_store import Lease, Prices
from tests.serving.ledger.test_pacer import CHANNELS, HOUR, MIDNIGHT, day, define, of, paced, steady
from tests.serving.ledgers import Place, reserve


@pytest.fixture
def place(place: Place) -> Place:
    place.clock.now = MIDNIGHT
    return place


@pytest.fixture
def shared(lasting_redis: int, tmp_path: Path) -> Place:
    place = Place("redis", tmp_path, lasting_redis)
    place.clock.now = MIDNIGHT
    return place


def routers(place: Place, number: int, found: Experiments) -> list[Pacer]:
    define(place.open(), found)
    made = [Pacer(place.open(), CHANNELS, steady(place)) for _ in range(number)]
    for pacer in made:
        pacer.refresh(found)
    return made


def test_one_router_paces_and_the_others_read_its_prices(shared: Place) -> None:
    found, ledger = of(day()), shared.open()
    pacers = routers(shared, 3, found)
    for step in range(1, 20):
        shared.clock.now += 60.0
        reserve(ledger, f"r{step}", "test/challenger", "c", "video", 1.0)
        balances = [pacer.refresh(found) for pacer in pacers]
        assert [one is not None for one in balances] == [True, False, False]
        assert len({str(pacer.prices("test/challenger", "c")) for pacer in pacers}) == 1
    assert ledger.pacing.prices()[0] <= 20, "at most one write a step, and none if no price changes"
    late = Pacer(shared.open(), CHANNELS, steady(shared))
    late.refresh(found)
    assert late.prices("test/challenger", "c") == pacers[0].prices("test/challenger", "c")
    assert late.prices("test/challenger", "c")["video"] > 0.5 > late.prices("test/incumbent", "c")["video"]  # type: ignore[index]


def test_a_router_that_paces_and_dies_is_replaced_within_seconds(shared: Place) -> None:
    found, ledger = of(day()), shared.open()
    dead, other = routers(shared, 2, found)
    before = other.prices("test/challenger", "c")
    reserve(ledger, "a rush", "test/challenger", "c", "video", 90.0)
    seconds = 0
    while not other.leads:
        shared.clock.now += 1.0
        seconds += 1
        other.refresh(found)
        if not other.leads:
            assert other.prices("test/challenger", "c") == before, "until then, prices do not change"
    assert seconds <= SILENT_SECONDS + 1
    shared.clock.now += 10.0
    other.refresh(found)
    assert other.prices("test/challenger", "c")["video"] > before["video"]  # type: ignore[index]
    assert dead.refresh(found) is None and not dead.leads
    assert dead.prices("test/challenger", "c") == other.prices("test/challenger", "c")


def test_a_router_that_stops_releases_the_lease(shared: Place) -> None:
    found = of(day())
    first, other = routers(shared, 2, found)
    first.release()
    other.refresh(found)
    assert other.leads


def test_a_router_that_was_suspended_in_its_round_writes_nothing(shared: Place, monkeypatch: Any) -> None:
    """Another router becomes leader while the suspended router holds the balances that it read."""
    found, ledger = of(day()), shared.open()
    slow, other = routers(shared, 2, found)
    balances = slow._ledger.balances

    def sleeps() -> Any:
        read = balances()
        for _ in range(6):
            shared.clock.now += 1.0
            other.refresh(found)
        assert other.leads
        reserve(ledger, "a rush", "test/challenger", "c", "video", 90.0)
        shared.clock.now += 6.0
        other.refresh(found)
        return read

    monkeypatch.setattr(slow._ledger, "balances", sleeps)
    shared.clock.now += 10.0
    assert slow.refresh(found) is None, "it no longer paces"
    written = ledger.pacing.states(), ledger.pacing.prices()
    assert slow.prices("test/challenger", "c") == other.prices("test/challenger", "c")
    other.refresh(found)
    assert (ledger.pacing.states(), ledger.pacing.prices()) == written


def test_the_wall_clock_decides_nothing_about_the_lease(shared: Place) -> None:
    found = of(day())
    define(shared.open(), found)
    ticks = [0.0]
    first, other = (Pacer(shared.open(), CHANNELS, lambda: ticks[0]) for _ in range(2))
    for jump in (0.0, HOUR, -2 * HOUR, HOUR):
        shared.clock.now += jump
        for _ in range(5):
            ticks[0] += 1.0
            first.refresh(found)
            other.refresh(found)
            assert first.leads and not other.leads
    shared.clock.now -= HOUR
    for _ in range(6):
        ticks[0] += 1.0
        other.refresh(found)
    assert other.leads


def test_the_lease_of_a_ledger(shared: Place) -> None:
    ledger, again = shared.open(), shared.open()
    define(ledger, of(day()))
    store, other = ledger.pacing, again.pacing
    mine = store.lease("a")
    assert mine.holder == "a" and other.lease("b") == mine
    first, second = Prices.of({"x": 1.0}), Prices.of({"z": 3.0})
    assert store.publish(mine, {"x": "1", "y": "2"}, first)
    theirs = other.lease("b", mine)
    assert theirs == Lease("b", mine.number + 1, 0)
    assert store.lease("a", mine) == theirs, "the lease has changed since this router saw it"
    assert not store.publish(mine, {"x": "old"}, first)
    assert other.publish(theirs, {"x": "", "z": "3"}, second)
    assert store.lease("a").version == 2 and store.prices() == again.pacing.prices() == (2, second)
    assert other.lease("", theirs).holder == "" and store.lease("a") == Lease("a", mine.number + 3, 0)


@pytest.mark.parametrize("kind", ["sqlite", "redis", "cluster"])
def test_states_are_kept_until_they_are_empty_and_opportunities_add_up(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    port = request.getfixturevalue("lasting_cluster" if kind == "cluster" else "lasting_redis")
    store = Place(kind, tmp_path, port).open()
    store.define([])
    pacing, prices = store.pacing, Prices.of({"y": 0.5})
    for states in ({"x": "1", "y": "2"}, {"x": "", "z": "3"}):
        assert pacing.publish(pacing.lease("a"), states, prices)
    assert pacing.states() == {"y": "2", "z": "3"}
    pacing.report({"y": 2}, {"c": 0.5})
    pacing.report({"y": 1, "z": 1}, {})
    assert pacing.reports() == ({"y": 3, "z": 1}, {} if kind == "sqlite" else {"c": 0.5}), "routers share the gains"
    if kind != "sqlite":
        assert pacing.prices() == (2, prices)


def test_a_reader_reads_names_only_when_accounts_change(shared: Place, monkeypatch: Any) -> None:
    ledger, reader = shared.open(), shared.open().pacing
    store, read = ledger.pacing, []
    lease = store.lease("a")
    client = reader._server.client  # type: ignore[attr-defined]
    hmget = client.hmget
    monkeypatch.setattr(client, "hmget", lambda key, fields: read.append(len(fields)) or hmget(key, fields))
    assert reader.prices() == (0, Prices("", array("d")))
    read.clear()
    steps = ({"x": 1.0, "y": 2.0}, {"x": 1.5, "y": 2.0}, {"x": 1.5, "y": 2.5}, {"y": 2.5, "x": 1.5}, {"y": 2.0})
    for version, prices in enumerate(steps, 1):
        assert store.publish(lease, {}, Prices.of(prices)) and reader.prices() == (version, Prices.of(prices))
    assert read == [3, 4, 3, 3, 3, 4, 3, 4], "another order of accounts counts as a change"
    older = shared.open().pacing
    older.prices()
    with shared.client() as client:
        client.delete(*client.scan_iter(f"*{shared.name}*prices"))
    assert older.prices() == (0, Prices("", array("d")))


def test_many_readers_cost_the_same_commands_whatever_the_campaigns(shared: Place) -> None:
    found = of(*(day(campaign=f"c{number}") for number in range(50)))
    ledger = shared.open()
    leader, reader = routers(shared, 2, found)
    sent: list[str] = []
    connection = reader._ledger.server.client.connection_pool  # type: ignore[attr-defined]
    take = connection.get_connection
    connection.get_connection = lambda *a, **b: sent.append("") or take(*a, **b)
    for _ in range(4):
        reader.refresh(found)
    assert len(sent) == 4
    reserve(ledger, "a rush", "test/challenger", "c7", "video", 90.0)
    shared.clock.now += 60.0
    leader.refresh(found)
    sent.clear()
    reader.refresh(found)
    assert len(sent) == 2 and reader.prices("test/challenger", "c7") == leader.prices("test/challenger", "c7")


def test_a_round_updates_a_bounded_number_of_accounts_and_the_others_next(place: Place, monkeypatch: Any) -> None:
    monkeypatch.setattr(pacer_module, "MOST_UPDATES", 3)
    found = of(*(day(campaign=f"c{number}") for number in range(5)))
    _, pacer = paced(place, found)
    for rounds in range(1, 5):
        assert len(pacer.pace()) == min(3 * rounds, 10)
        pacer.refresh(found)
