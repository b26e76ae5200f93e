"""The ledger: spent + reserved never exceeds the limit, whatever is repeated, raced or killed."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from serving.ledger import Account, Balance, LedgerUnavailable, Settlement, SqliteLedger, UnknownReservation, money

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.define([Account("a", "*", "*", 10.0), Account("a", "c1", "video", 1.0), Account("b", "*", "*", 5.0)])
    return ledger


def balance(ledger: SqliteLedger, arm: str = "a", campaign: str = "*", channel: str = "*") -> Balance:
    (found,) = [b for b in ledger.balances() if (b.arm, b.campaign, b.channel) == (arm, campaign, channel)]
    return found


def test_a_reservation_draws_on_every_matching_account_and_on_no_other(ledger: SqliteLedger) -> None:
    assert ledger.reserve("r1", "a", "c1", "video", 0.4)
    assert ledger.reserve("r2", "a", "c2", "video", 0.5)
    assert balance(ledger).reserved == 0.9
    assert balance(ledger, "a", "c1", "video").reserved == 0.4
    assert balance(ledger, "b").reserved == 0


def test_all_matching_accounts_or_none(ledger: SqliteLedger) -> None:
    assert not ledger.reserve("r1", "a", "c1", "video", 1.5)  # the wildcard account would have had room
    assert [b.reserved for b in ledger.balances()] == [0, 0, 0]
    assert ledger.open_reservations() == []


def test_money_that_nobody_granted_is_refused(ledger: SqliteLedger) -> None:
    assert not ledger.reserve("r1", "unheard-of", "c1", "video", 0.0)


def test_the_last_cent_can_be_reserved_and_not_one_more(ledger: SqliteLedger) -> None:
    assert all(ledger.reserve(f"r{i}", "b", "c", "x", 0.1) for i in range(50))  # 50 * 0.1 is not 5.0 in floats
    assert balance(ledger, "b").reserved == 5.0
    assert not ledger.reserve("more", "b", "c", "x", 1e-9)


def test_settling_charges_the_actual_cost_and_frees_the_rest(ledger: SqliteLedger) -> None:
    ledger.reserve("r1", "a", "c1", "video", 0.4)
    assert ledger.settle("r1", 0.3) == Settlement(charged=0.3, excess=0.0)
    assert balance(ledger) == Balance("a", "*", "*", 10.0, spent=0.3, reserved=0.0, excess=0.0)


def test_a_cost_above_the_reservation_is_shown_and_not_charged(ledger: SqliteLedger) -> None:
    ledger.reserve("r1", "a", "c1", "video", 0.4)
    assert ledger.settle("r1", 0.7) == Settlement(charged=0.4, excess=0.3)
    assert balance(ledger) == Balance("a", "*", "*", 10.0, spent=0.4, reserved=0.0, excess=0.3)


def test_every_call_may_be_repeated(ledger: SqliteLedger) -> None:
    assert ledger.reserve("r1", "a", "c1", "video", 0.4) and ledger.reserve("r1", "a", "c1", "video", 0.9)
    assert balance(ledger).reserved == 0.4
    assert ledger.settle("r1", 0.3) == ledger.settle("r1", 0.1)
    ledger.cancel("r1")
    assert ledger.reserve("r1", "a", "c1", "video", 0.4)
    assert balance(ledger) == Balance("a", "*", "*", 10.0, spent=0.3, reserved=0.0, excess=0.0)


def test_cancelling_gives_the_money_back_for_good(ledger: SqliteLedger) -> None:
    ledger.reserve("r1", "a", "c1", "video", 0.4)
    ledger.cancel("r1")
    ledger.cancel("r1")
    assert balance(ledger).reserved == 0 and ledger.open_reservations() == []
    assert not ledger.reserve("r1", "a", "c1", "video", 0.4)


def test_a_reservation_that_arrives_after_its_cancellation_finds_nothing(ledger: SqliteLedger) -> None:
    ledger.cancel("late")
    assert not ledger.reserve("late", "a", "c1", "video", 0.1)
    assert balance(ledger).reserved == 0


def test_a_cost_after_the_cancellation_was_spent_all_the_same(ledger: SqliteLedger) -> None:
    ledger.reserve("r1", "a", "c1", "video", 0.4)
    ledger.cancel("r1")
    assert ledger.settle("r1", 0.2) == ledger.settle("r1", 0.2) == Settlement(charged=0.0, excess=0.2)
    assert balance(ledger).excess == 0.2


def test_settling_what_was_never_reserved(ledger: SqliteLedger) -> None:
    with pytest.raises(UnknownReservation, match="r9"):
        ledger.settle("r9", 0.1)


def test_limits_change_and_spend_stays(ledger: SqliteLedger) -> None:
    ledger.reserve("r1", "b", "c", "x", 3.0)
    ledger.settle("r1", 3.0)
    ledger.define([Account("b", "*", "*", 2.0)])
    assert ledger.balances() == [Balance("b", "*", "*", 2.0, spent=3.0, reserved=0.0, excess=0.0)]
    assert not ledger.reserve("r2", "b", "c", "x", 0.1)
    ledger.define([Account("b", "*", "*", 4.0), Account("a", "*", "*", 10.0)])
    assert ledger.reserve("r2", "b", "c", "x", 0.1)
    assert balance(ledger, "b").spent == 3.0


def test_an_account_that_is_left_out_binds_nobody_until_it_returns(ledger: SqliteLedger) -> None:
    ledger.reserve("r1", "a", "c1", "video", 0.9)
    ledger.define([Account("a", "*", "*", 10.0)])
    assert ledger.reserve("r2", "a", "c1", "video", 2.0)
    ledger.settle("r1", 0.9)  # still charged where it was reserved
    ledger.define([Account("a", "*", "*", 10.0), Account("a", "c1", "video", 1.0)])
    assert balance(ledger, "a", "c1", "video") == Balance("a", "c1", "video", 1.0, 0.9, 0.0, 0.0)


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf, 1e10])
def test_amounts_that_are_no_money(ledger: SqliteLedger, amount: float) -> None:
    with pytest.raises(ValueError, match="amount"):
        ledger.reserve("r", "a", "c", "x", amount)
    with pytest.raises(ValueError, match="limit"):
        ledger.define([Account("a", "*", "*", amount)])
    with pytest.raises(ValueError, match="actual"):
        ledger.settle("r", amount)
    with pytest.raises(ValueError, match="arm"):
        Account("", "*", "*", 1.0)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_rounding_never_grants_more_than_was_given(limit: float, amount: float) -> None:
    assert money.units(money.limit(limit)) <= limit <= limit + 1e-9
    assert money.units(money.reservation(amount)) >= amount
    assert abs(money.cost(amount) - amount * 1e9) <= 1 + amount * 1e-6


def test_no_file_no_spend(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "absent.sqlite")
    for call in (ledger.balances, lambda: ledger.reserve("r", "a", "c", "x", 0.1), lambda: ledger.cancel("r")):
        with pytest.raises(LedgerUnavailable, match="absent"):
            call()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LedgerUnavailable):
        SqliteLedger(tmp_path / "no-folder" / "ledger.sqlite").define([])


def test_a_file_that_vanishes_is_not_a_fresh_budget(ledger: SqliteLedger) -> None:
    ledger.path.unlink()
    with pytest.raises(LedgerUnavailable):
        ledger.reserve("r", "a", "c", "x", 0.1)
    ledger.path.write_bytes(b"")
    with pytest.raises(LedgerUnavailable, match="replaced"):
        ledger.define([Account("a", "*", "*", 1.0)])


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other"
    text.write_text("this is not a database, it is a text of some length " * 30)
    with sqlite3.connect(other) as db:
        db.execute("PRAGMA user_version = 9")
    for path in (text, other):
        with pytest.raises(LedgerUnavailable, match=path.name):
            SqliteLedger(path).define([])


def test_a_locked_ledger_gives_up_within_its_patience(ledger: SqliteLedger) -> None:
    hasty = SqliteLedger(ledger.path, patience=0.05)
    blocker = sqlite3.connect(ledger.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        hasty.reserve("r", "a", "c", "x", 0.1)
    blocker.execute("ROLLBACK")
    assert hasty.reserve("r", "a", "c", "x", 0.1)
    blocker.close()


def test_the_database_itself_holds_the_cap(ledger: SqliteLedger) -> None:
    db = sqlite3.connect(ledger.path, isolation_level=None)
    with pytest.raises(sqlite3.IntegrityError, match="limit"):
        db.execute("UPDATE account SET reserved = cap + 1")
    db.close()


def test_calls_that_wait_share_a_commit_and_one_that_fails_fails_alone(ledger: SqliteLedger) -> None:
    results: dict[str, object] = {}

    def call(name: str, *arguments: object) -> None:
        try:
            results[name] = getattr(ledger, name.split()[0])(*arguments)
        except Exception as error:
            results[name] = error

    ledger.reserve("r0", "b", "c", "x", 1.0)
    calls = [
        ("reserve 1", "r1", "b", "c", "x", 1.0),
        ("settle unknown", "r9", 1.0),
        ("settle 0", "r0", 0.5),
        ("reserve too much", "r2", "b", "c", "x", 4.0),
        ("cancel 3", "r3"),
    ]
    writes = sqlite3.connect(ledger.path, isolation_level=None)
    with ledger._commit.lock:
        threads = [threading.Thread(target=call, args=arguments) for arguments in calls]
        for thread in threads:
            thread.start()
        while len(ledger._commit._waiting) < len(calls):
            time.sleep(0.001)
        before = writes.execute("PRAGMA data_version").fetchone()[0]
    for thread in threads:
        thread.join()
    assert results["reserve 1"] is True and results["reserve too much"] is False
    assert results["settle 0"] == Settlement(0.5, 0.0) and results["cancel 3"] is None
    assert isinstance(results["settle unknown"], UnknownReservation)
    assert writes.execute("PRAGMA data_version").fetchone()[0] == before + 1
    writes.close()
    assert balance(ledger, "b") == Balance("b", "*", "*", 5.0, spent=0.5, reserved=1.0, excess=0.0)


def test_threads_share_one_ledger(ledger: SqliteLedger) -> None:
    granted: list[str] = []

    def work(worker: int) -> None:
        granted.extend(f"{worker}-{i}" for i in range(20) if ledger.reserve(f"{worker}-{i}", "b", "c", "x", 0.25))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 20 and balance(ledger, "b").reserved == 5.0


class Machine(RuleBasedStateMachine):
    """Any sequence of calls, repeats included, against a model that is a dictionary."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.ledger = SqliteLedger(Path(self.folder.name) / "ledger.sqlite")
        self.limits = {("*", "*"): 3.0, ("c1", "*"): 1.0}
        self.ceiling = dict(self.limits)  # of what may be committed: a lowered limit takes nothing back
        self.states: dict[str, tuple[str, str, float, float]] = {}  # id -> state, campaign, reserved, charged
        self._define()

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    def _define(self) -> None:
        self.ledger.define([Account("a", *scope, limit) for scope, limit in self.limits.items()])

    def _committed(self, scope: tuple[str, str]) -> float:
        held = [s for s in self.states.values() if scope[0] in ("*", s[1])]
        return sum({"open": s[2], "settled": s[3], "cancelled": 0.0}[s[0]] for s in held)

    @rule(target=ids, name=st.integers(0, 10**6).map(str))
    def make_id(self, name: str) -> str:
        return name

    @rule(name=ids, campaign=st.sampled_from(["c1", "c2"]), amount=st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5]))
    def reserve(self, name: str, campaign: str, amount: float) -> None:
        granted = self.ledger.reserve(name, "a", campaign, "x", amount)
        if name in self.states:
            assert granted == (self.states[name][0] != "cancelled")
            return
        scopes = [scope for scope in self.limits if scope[0] in ("*", campaign)]
        assert granted == all(self._committed(s) + amount <= self.limits[s] + 1e-12 for s in scopes)
        if granted:
            self.states[name] = ("open", campaign, amount, 0.0)

    @rule(name=ids, actual=st.sampled_from([0.0, 0.05, 0.3, 4.0]))
    def settle(self, name: str, actual: float) -> None:
        if name not in self.states:
            with pytest.raises(UnknownReservation):
                self.ledger.settle(name, actual)
            return
        state, campaign, amount, charged = self.states[name]
        found = self.ledger.settle(name, actual)
        if state == "open":
            charged = min(actual, amount)
        assert found.charged == pytest.approx(charged if state != "cancelled" else 0.0)
        self.states[name] = ("settled", campaign, 0.0, found.charged)

    @rule(name=ids)
    def cancel(self, name: str) -> None:
        self.ledger.cancel(name)
        state, campaign, _, charged = self.states.get(name, ("", "none", 0.0, 0.0))
        if state != "settled":
            self.states[name] = ("cancelled", campaign, 0.0, charged)

    @rule(scope=st.sampled_from([("*", "*"), ("c1", "*")]), limit=st.sampled_from([0.0, 0.5, 2.0, 4.0]))
    def change_limit(self, scope: tuple[str, str], limit: float) -> None:
        self.limits[scope] = limit
        self.ceiling[scope] = max(limit, self._committed(scope))
        self._define()

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = SqliteLedger(self.ledger.path)

    @invariant()
    def cap_holds_and_nothing_is_lost(self) -> None:
        for b in self.ledger.balances():
            scope = (b.campaign, b.channel)
            assert b.spent + b.reserved <= self.ceiling[scope] + 1e-12
            assert b.spent + b.reserved == pytest.approx(self._committed(scope), abs=1e-9)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


_WRITER = """
import sys
from serving.ledger import Account, SqliteLedger
worker, path, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
ledger = SqliteLedger(path, patience=60)
ledger.define([Account("a", "*", "*", 5.0), Account("a", "c1", "*", 3.0)])
print("ready", flush=True)
sys.stdin.readline()
granted = 0
for i in range(rounds):
    name = f"{worker}-{i}"
    if ledger.reserve(name, "a", f"c{i % 2}", "x", 0.05):
        granted += 1
        (ledger.settle(name, 0.04), ledger.settle(name, 0.04)) if i % 3 else ledger.cancel(name)
print(granted)
"""


def _writers(path: Path, count: int, rounds: int) -> list[subprocess.Popen[str]]:
    """Processes that write at the same time: none starts before all are there."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _WRITER]
    writers = [
        subprocess.Popen(
            [*command, str(n), str(path), str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        for n in range(count)
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    return writers


def _holds_balance(path: Path) -> None:
    """Accounts agree with the reservations that they are made of."""
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = db.execute(
        """SELECT a.cap, a.spent, a.reserved,
                  coalesce(sum(r.amount) FILTER (WHERE r.state = 'open'), 0), coalesce(sum(r.charged), 0)
           FROM account a LEFT JOIN hold h ON h.account = a.id LEFT JOIN reservation r ON r.id = h.reservation
           GROUP BY a.id"""
    ).fetchall()
    db.close()
    for cap, spent, reserved, in_reservations, charged in rows:
        assert spent + reserved <= cap
        assert (spent, reserved) == (charged, in_reservations)


def test_processes_that_race_for_the_last_cent(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    writers = _writers(path, 4, 60)  # 240 attempts at 0.04 to 0.05, of which the limits allow about 120
    outputs = [writer.communicate(timeout=60)[0] for writer in writers]
    assert all(writer.returncode == 0 for writer in writers)
    assert sum(int(output) for output in outputs) < 240
    _holds_balance(path)
    assert SqliteLedger(path).open_reservations() == []
    spent = {b.campaign: b.spent for b in SqliteLedger(path).balances()}
    assert spent["*"] > 4.9 or spent["c1"] > 2.9


@pytest.mark.integration
def test_a_writer_killed_in_the_middle_leaves_a_sound_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    for turn in range(5):
        (writer,) = _writers(path, 1, 10**6)
        time.sleep(0.05 + 0.07 * turn)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        _holds_balance(path)
    ledger = SqliteLedger(path)
    assert len(ledger.open_reservations()) <= 5  # at most the one in flight at each kill
    for name in ledger.open_reservations():
        ledger.cancel(name)
    assert all(b.reserved == 0 for b in ledger.balances())
