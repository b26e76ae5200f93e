"""Tests that routers that race or die on a Redis Cluster never exceed the budget."""

import contextlib
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from mtorl.log.decision_ids import campaign_slot, decision_id
from serving.ledger.contract import Account, Ledger, LedgerUnavailable, Settlement, Wanted
from serving.ledger.location import RedisLocation
from serving.ledger.redis_ledger import RedisLedger
from serving.ledger.redis_server import RedisServer
from tests.redis_server import redis_cluster
from tests.serving.ledgers import Place, cancel, reserve, settle
from tests.serving.router_fixtures import Harness, instance, with_router
from tests.waiting import until

LIMIT, CENT = 2.0, 10**7

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["reserve", "reserve", "reserve", "settle", "cancel", "expire", "recall", "define", "late grant"]
        ),
        # Number of the router
        st.integers(0, 1),
        # Number of the reservation, which also determines the campaign
        st.integers(0, 11),
        # With n > 0, the router dies before its n-th script.
        st.sampled_from([0, 0, 0, 1, 2, 3, 4]),
    ),
    max_size=40,
)


class Dies:
    """Simulates a router that dies before or after one of its next scripts."""

    def __init__(self, ledger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self.late: list[tuple[Any, ...]] = []  # grants that were not sent
        self.run = ledger._slices._run
        monkeypatch.setattr(ledger._slices, "_run", self._run)

    def _run(self, *of: Any) -> Any:
        if self.left == 1:
            if of[1] == "grant":
                self.late.append(of)
            self.left = 0
            raise LedgerUnavailable("died before")
        answer = self.run(*of)
        if self.left > 1:
            self.left -= 1
            if self.left == 1:
                self.left = 0
                raise LedgerUnavailable("died after")
        return answer


def _accounts(place: Place) -> tuple[dict[str, tuple[int, int]], dict[str, list[int]]]:
    """Return each arm's limit and committed money, in the bank and summed over the slices."""
    bank: dict[str, tuple[int, int]] = {}
    slots: dict[str, list[int]] = {}
    for of_bank, (arm, campaign, *_), (cap, spent, reserved, _) in place.accounts():
        if of_bank:
            bank[arm] = cap, spent + reserved
        elif campaign == "*":
            sums = slots.setdefault(arm, [0, 0])
            assert spent + reserved <= cap or spent + reserved == 0
            sums[0] += cap
            sums[1] += spent + reserved
    return bank, slots


@pytest.mark.integration
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=_STEPS)
def test_slices_never_exceed_the_budget_when_a_router_dies(
    tmp_path_factory: pytest.TempPathFactory, lasting_cluster: int, steps: list[tuple[str, int, int, int]]
) -> None:
    place = Place("cluster", tmp_path_factory.mktemp("slices"), lasting_cluster)
    parts = [Account("*", "*", "*", LIMIT), Account("a", "*", "*", 1.2), Account("b", "*", "*", 0.8)]
    lower = [Account("*", "*", "*", LIMIT), Account("a", "*", "*", 0.2), Account("b", "*", "*", 1.8)]
    routers: Any = [place.open(), place.open()]
    routers[0].define(parts)
    highest = {"*": LIMIT, "a": 1.2, "b": 0.8}
    with pytest.MonkeyPatch.context() as monkeypatch:
        deaths = [Dies(router, monkeypatch) for router in routers]
        for step, router, i, dies in steps:
            ledger, death = routers[router], deaths[router]
            death.left = dies
            try:
                if step == "reserve":
                    reserve(ledger, f"r{i}", "ab"[i % 2], f"c{i}", "x", 0.3)
                elif step == "settle":
                    settle(ledger, f"r{i}", 0.2, f"e{dies}")
                elif step == "cancel":
                    cancel(ledger, f"r{i}")
                elif step == "expire":
                    ledger.expire(0)
                elif step == "recall":
                    ledger._slices.recall()
                elif step == "define":
                    ledger.define(parts if i % 2 else lower)
                elif death.late:
                    death.run(*death.late.pop())
            except (LedgerUnavailable, LookupError):
                pass
            death.left = 0
            bank, slots = _accounts(place)
            for arm, (cap, leased) in bank.items():
                highest[arm] = max(highest[arm], cap / CENT / 100)
                caps, taken = slots.get(arm, [0, 0])
                assert taken <= caps <= leased <= highest[arm] * 100 * CENT, (step, arm)
            assert slots.get("*", [0, 0])[1] <= LIMIT * 100 * CENT
    routers[0]._slices.recall()
    bank, slots = _accounts(place)
    assert {arm: leased for arm, (_, leased) in bank.items()} == {arm: taken for arm, (_, taken) in slots.items()}, (
        "no slice keeps unused money"
    )
    for router in routers:
        router.close()


@pytest.mark.integration
def test_a_node_that_returns_without_its_keys_grants_no_fresh_budget(tmp_path: Path, lasting_cluster: int) -> None:
    place = Place("cluster", tmp_path, lasting_cluster)
    place.open().define([Account(arm, c, "*", LIMIT) for arm in "*a" for c in ("*", "c")])
    assert reserve(place.open(), "r1", "a", "c", "x", 0.3)
    group = place.groups["r1"]
    with place.client() as client:
        for key in client.scan_iter(f"{group.replace('{', '[{]')}*", 1000):
            client.delete(key)
    for router in (place.open(), place.open()):
        with pytest.raises(LedgerUnavailable, match="LOST"):
            router.define([Account(arm, c, "*", LIMIT) for arm in "*a" for c in ("*", "c")])
        with pytest.raises(LedgerUnavailable, match="LOST"):
            reserve(router, "r2", "a", "c", "x", 0.3)


@pytest.mark.integration
def test_a_lowered_budget_binds_money_that_is_leased_meanwhile(tmp_path: Path, lasting_cluster: int) -> None:
    place = Place("cluster", tmp_path, lasting_cluster)
    one, other = place.open(), place.open()
    one.define([Account(arm, "*", "*", 16.0) for arm in "*a"])
    slices: Any = one._slices  # type: ignore[attr-defined]
    recall, leases = slices.recall, [True]

    def recall_and_lease() -> None:
        recall()
        if leases:
            leases.pop()
            assert reserve(other, "r0", "a", "c1", "x", 0.1)

    slices.recall = recall_and_lease
    one.define([Account(arm, "*", "*", 0.3) for arm in "*a"])
    assert sum(reserve(other, f"r{i}", "a", "c1", "x", 0.1) for i in range(1, 9)) == 2


@pytest.mark.integration
def test_a_node_that_is_down_fails_only_its_own_campaigns(tmp_path: Path) -> None:
    with redis_cluster(tmp_path, appendonly="yes", appendfsync="no", cluster_require_full_coverage="no") as ports:
        place = Place("cluster", tmp_path, ports[0])
        made: Any = RedisLedger(RedisLocation.parse(place.where), None, 5.0)
        names = [f"c{i}" for i in range(40)]
        made.define([Account(arm, c, "*", 1.0) for arm in "*a" for c in names])

        def pays(campaign: str) -> bool:
            return bool(reserve(made, decision_id("u", "0" * 8, campaign=campaign), "a", campaign, "x", 0.1))

        assert all(map(pays, names))
        made._slices.recall()
        with place.client() as client:
            away, *_, alive = (client.get_redis_connection(node) for node in client.get_primaries())
            on = {c: client.get_node_from_key(made._group(c)).port for c in names}
        port = away.get_connection_kwargs()["port"]
        away.shutdown(nosave=True)
        alive.script_flush()  # as if that node was restarted
        for c in names:
            if on[c] == port:
                with pytest.raises(LedgerUnavailable):
                    pays(c)
        live = [c for c in names if on[c] != port]
        both = [Wanted(decision_id("u", "0" * 8, campaign=c), "a", c, "x", 0.1) for c in names]
        assert [answer is True for answer in made.reserve_all(both)] == [c in live for c in names]
        assert made.expire(0) == 2 * len(live)
        assert live and all(map(pays, live))


@pytest.mark.integration
def test_a_late_cost_is_charged_from_what_the_bank_has_left(tmp_path: Path, lasting_cluster: int) -> None:
    place = Place("cluster", tmp_path, lasting_cluster)
    ledger: Any = place.open()
    ledger.define([Account(arm, "*", "*", 2.0) for arm in "*a"])
    assert reserve(ledger, "r1", "a", "c1", "x", 1.0) and settle(ledger, "r1", 0.5, "e1").charged == 0.5
    ledger._slices.recall()
    assert settle(ledger, "r1", 0.3, "e2") == Settlement(0.8, 0.0)
    assert reserve(ledger, "r2", "a", "c2", "x", 1.0) and ledger.expire(0) == 1
    ledger._slices.recall()
    assert settle(ledger, "r2", 0.6) == Settlement(0.6, 0.0)
    assert settle(ledger, "r2", 0.6, "e2") == settle(ledger, "r2", 0.6, "e2") == Settlement(1.0, 0.2)
    assert settle(ledger, "r1", 0.3, "e3") == Settlement(1.0, 0.1) and ledger.balances()[0].excess == 0.3
    assert not reserve(ledger, "r3", "a", "c3", "x", 0.01)


@pytest.mark.integration
def test_an_empty_bank_is_asked_once_a_second(tmp_path: Path, lasting_cluster: int, monkeypatch: Any) -> None:
    place = Place("cluster", tmp_path, lasting_cluster)
    made: Any = RedisLedger(RedisLocation.parse(place.where), None, 5.0)
    made.define([Account(arm, "*", "*", 1.0) for arm in "*a"])
    sent: list[str] = []
    run = made._slices._run
    monkeypatch.setattr(made._slices, "_run", lambda *of: sent.append(of[1]) or run(*of))
    names = [decision_id("u", "0" * 8, campaign=f"c{i % 3}") for i in range(40)]
    granted = made.reserve_all([Wanted(name, "a", f"c{i % 3}", "x", 0.1) for i, name in enumerate(names)])
    assert sum(granted) == 10, "the last cent is found in any slice"
    assert sent.count("lease") <= 60
    sent.clear()
    assert not any(made.reserve_all([Wanted(f"{n[:-1]}1", "a", f"c{i % 3}", "x", 0.1) for i, n in enumerate(names)]))
    assert not sent


def test_nodes_have_equal_parts_of_a_ledger() -> None:
    for nodes in (2, 3, 4, 8, 16):
        groups = RedisServer(RedisLocation.parse("redis+cluster://h?name=ads"), None, 5.0).groups
        found = Counter(key_slot(group.strip("{}:").encode()) * nodes // 16384 for group in groups)
        assert len(found) == nodes and max(found.values()) <= 16 // nodes + 1


@pytest.mark.integration
def test_a_reservation_is_one_command_of_its_node(tmp_path: Path, lasting_cluster: int) -> None:
    """The client once sent an additional command for each script."""
    place = Place("cluster", tmp_path, lasting_cluster)
    ledger = place.open()
    ledger.define([Account("a", f"c{i}", "*", 9.0) for i in range(20)])
    assert all(reserve(ledger, f"first{i}", "a", f"c{i}", "x", 0.1) for i in range(20))
    settle(ledger, "first1", 0.1)

    def sent(client: Any) -> Counter[str]:
        of_nodes = client.info("commandstats", target_nodes=client.PRIMARIES).values()
        return sum((Counter({name: found["calls"] for name, found in node.items()}) for node in of_nodes), Counter())

    with place.client() as client:
        before = sent(client)
        ledger.reserve_all([Wanted(f"r{i}", "a", f"c{i}", "x", 0.1) for i in range(20)])
        settle(ledger, "r1", 0.1)
        found = sent(client) - before
    assert found["cmdstat_evalsha"] == 21 and not found["cmdstat_command|getkeys"]


@pytest.mark.integration
def test_an_id_of_another_campaign_is_refused(tmp_path: Path, lasting_cluster: int) -> None:
    place = Place("cluster", tmp_path, lasting_cluster)
    made = RedisLedger(RedisLocation.parse(place.where), None, 5.0)
    made.define([Account("a", "*", "*", 1.0)])
    one, other = "c0", next(f"c{i}" for i in range(99) if campaign_slot(f"c{i}") != campaign_slot("c0"))
    name = decision_id("u", "0" * 8, campaign=one)
    with pytest.raises(ValueError, match="another campaign"):
        reserve(made, name, "a", other, "x", 0.1)
    assert reserve(made, name, "a", one, "x", 0.1) and made.open_reservations() == [name]
    assert settle(made, name, 0.05).charged == 0.05


@pytest.mark.integration
def test_threads_share_the_last_cent_of_all_campaigns(tmp_path: Path, lasting_cluster: int) -> None:
    place = Place("cluster", tmp_path, lasting_cluster)
    routers = [place.open() for _ in range(4)]
    routers[0].define([Account("*", "*", "*", 5.0), Account("a", "*", "*", 5.0)])
    granted: list[str] = []

    def work(router: Ledger, worker: int) -> None:
        for i in range(25):
            name = f"{worker}-{i}"
            with contextlib.suppress(LedgerUnavailable):
                granted.extend([name] if reserve(router, name, "a", f"c{i % 5}", "x", 0.1) else [])

    threads = [threading.Thread(target=work, args=(router, n)) for n, router in enumerate(routers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The rest of the budget includes money left in slices after the race.
    for i in range(60):
        granted.extend([f"r{i}"] if reserve(routers[0], f"r{i}", "a", "c1", "x", 0.1) else [])
    shown = {b.arm: b.reserved for b in routers[1].balances()}
    assert len(granted) == 50 and shown == {"*": 5.0, "a": 5.0}


@pytest.fixture
def ledger(tmp_path: Path, lasting_cluster: int) -> str:
    return Place("cluster", tmp_path, lasting_cluster).where


@pytest.mark.integration
@with_router()
async def test_a_router_spends_from_a_cluster(h: Harness, ledger: str) -> None:
    answers = [(await h.predict(instance(campaign_id=f"c{i}")))[0] for i in range(4)]
    assert all(answer["expose"] for answer in answers)
    await h.outcome(answers[0]["decision_id"], "cost", 0.04)
    await h.outcome(answers[1]["decision_id"], "cancel", 0.0)
    await until(lambda: len(h.router.ledger.open_reservations()) == 2)
    assert max(b.spent for b in h.router.ledger.balances()) == 0.04
    await h.restart()
    assert (await h.predict())[0]["expose"]
