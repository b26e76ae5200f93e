"""The shared ledger: one Redis for any number of routers. Each call is one script, so one step.

Requirements of the server, checked when the ledger is opened and at each `expire`:

- `appendonly yes`. With `appendfsync always` nothing that was answered is ever lost; with `everysec` a machine (not a
  process) that dies takes up to a second of reservations with it.
- `maxmemory-policy noeviction`, or no `maxmemory`: an evicted reservation would be a forgotten one.
- One primary. A replica that is promoted without its primary's last writes has lost them.

A server that returns without the accounts (restarted without its files, FLUSHALL) gives no fresh budget: a process
remembers the generation that it has seen, and refuses to spend until that returns or the process is started again.

All keys carry one hash tag, `{mtorl-ledger:NAME}`, and scripts name each key they touch: on Redis Cluster a ledger lies
on one node, which the URL must name.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, RedisError
from redis.retry import Retry
from typing_extensions import override

from mtorl.experiment.arm import ALL_ARMS
from mtorl.policy.periods import PERIODS, period_at
from mtorl.runtime.clock_jumps import ClockJumps
from serving.ledger import money
from serving.ledger.contract import (
    EXPIRE_AT_ONCE,
    RETENTION_SECONDS,
    SETTLED_SECONDS,
    Account,
    AlreadyReserved,
    Balance,
    Ledger,
    LedgerUnavailable,
    Room,
    Settlement,
    UnknownReservation,
    Wanted,
    parts,
)
from serving.ledger.location import RedisLocation
from serving.ledger.redis_pacing import RedisPacing

LARGEST = 9e6  # currency units: Lua compares doubles, which are exact up to 2^53 = 9.007e15 nano-units

_LUA = Path(__file__).parent / "redis_scripts"
_SCRIPTS = ("define", "begin", "reserve", "settle", "cancel", "expire", "balances", "open")
_BATCH = 100  # reservations that `expire` takes in one script: decisions get in between
_PERIOD_OVER = -2  # a script's answer: the next period must begin first
_FORM = "1-"  # version of the keys and scripts: what the generation begins with


class RedisLedger(Ledger):
    """A ledger in Redis; `Ledger` says what its methods promise.

    No limit and no reservation may be above 9 million currency units.

    Args:
        patience: Seconds to wait for a connection, and for an answer, before giving up with LedgerUnavailable.
        clock: Gives the time in seconds since 1970; else the server's, so that all routers agree.
        steady: Seconds that go on evenly under any change of the clock; by default the system's, or `clock`.
    """

    shared = True

    def __init__(
        self,
        location: RedisLocation,
        password: str | None = None,
        patience: float = 5.0,
        clock: Callable[[], float] | None = None,
        steady: Callable[[], float] | None = None,
    ) -> None:
        self._name = str(location)
        self._clock = clock
        self._jumps = ClockJumps(steady or clock or time.monotonic)
        self._generation: str | None = None
        self._checked = False
        self.client: Any = Redis(  # Any: its methods are typed for asyncio, too
            host=location.host,
            port=location.port,
            db=location.database,
            username=location.username,
            password=password,
            ssl=location.tls,
            socket_timeout=patience,
            socket_connect_timeout=patience,
            decode_responses=True,
            # A connection that the server closed long ago is no fault. Every script may be repeated.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        )
        self.prefix = f"{{mtorl-ledger:{location.name}}}:"
        self.pacing = RedisPacing(self.client, self.prefix, self._errors)
        self._keys = [self.prefix + key for key in ("generation", "caps", "in-force", "books", "open")]
        common = (_LUA / "common.lua").read_text()
        self._scripts = {
            name: self.client.register_script(common + (_LUA / f"{name}.lua").read_text()) for name in _SCRIPTS
        }

    @override
    def identity(self) -> str | None:
        with self._errors():
            found = self.client.get(self._keys[0])
        return found.removeprefix(_FORM) if found else None

    @override
    def claim(self) -> None:
        pass  # it is for many routers

    @override
    def define(self, accounts: Iterable[Account]) -> None:
        limits = {account: money.limit(account.limit, LARGEST) for account in accounts}
        divided = parts(limits)
        with self._errors():
            if self._generation is None:
                self.check()
                self.client.set(self._keys[0], _FORM + uuid.uuid4().hex, nx=True)
            now = self._now()
            self._jumps.look(now)
            arguments: list[Any] = []
            for a in sorted(limits, key=lambda account: account.arm != ALL_ARMS):
                terms = f"{a.period} {a.timezone} {divided[a.budget]}"
                names = (_name_of(arm, a.campaign, a.channel, a.period) for arm in (a.arm, ALL_ARMS))
                arguments += [*names, limits[a], *period_at(a.period, a.timezone, now), terms]
            self._run("define", [], *arguments)
            self.client.script_load(self._scripts["reserve"].script)  # the first decision need not wait for it

    @override
    def reserve_all(self, wanted: Sequence[Wanted]) -> list[bool | Exception]:
        script, faults, calls = self._scripts["reserve"], dict[int, Exception](), []
        with self._errors():
            for i, reservation in enumerate(wanted):
                try:
                    arguments = _reservation_arguments(reservation)
                    calls.append(self._call("reserve", [reservation.reservation_id], *arguments))
                except ValueError as error:
                    faults[i] = error
            answers = self._pipelined(script, calls)
            if any(isinstance(answer, NoScriptError) for answer in answers):  # the server was started again
                self.client.script_load(script.script)
                answers = self._pipelined(script, calls)  # a script may be repeated
            if _PERIOD_OVER in answers:
                self._begin_periods()
                answers = self._pipelined(script, calls)
        answered = iter(answers)
        return [faults[i] if i in faults else self._granted(next(answered)) for i in range(len(wanted))]

    def _pipelined(self, script: Any, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipeline:
            for keys, arguments in calls:
                pipeline.evalsha(script.sha, len(keys), *keys, *arguments)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    def _granted(self, answer: Any) -> bool | Exception:
        if isinstance(answer, Exception):
            return LedgerUnavailable(f"{self._name}: {answer}")
        if answer == _PERIOD_OVER:
            return LedgerUnavailable(f"{self._name}: a period ended just now")
        if answer < 0:
            return AlreadyReserved(f"{self._name}: another reservation pays for this request")
        return bool(answer)

    @override
    def settle(self, reservation_id: str, actual: float, event: str = "") -> Settlement:
        cost = money.cost(actual)
        with self._errors():
            answer = self._run("settle", [reservation_id], cost, int(SETTLED_SECONDS), event)
        if not answer:
            raise UnknownReservation(reservation_id)
        charged = int(answer[0])
        return Settlement(money.units(charged), money.units(int(answer[1]) - charged))

    @override
    def cancel(self, reservation_id: str) -> None:
        with self._errors():
            self._run("cancel", [reservation_id])

    @override
    def expire(self, ttl: float, most: int = EXPIRE_AT_ONCE) -> int:
        # Redis itself forgets what was finished long ago.
        total = 0
        with self._errors():
            self._checked = False  # the server may have been restarted with other settings
            latest = self._jumps.before(self._now(), ttl)
            while count := min(_BATCH, most - total):
                overdue = self.client.zrangebyscore(self._keys[4], "-inf", latest, 0, count)
                expired = self._run("expire", overdue, latest)
                total += expired
                if not expired:
                    break
            return total

    @override
    def balances(self) -> list[Balance]:
        with self._errors():
            while (rows := self._run("balances", [])) == _PERIOD_OVER:
                self._begin_periods()
        balances = []
        for account, start, *amounts in sorted(rows):
            arm, campaign, channel, period = json.loads(account)
            limit, spent, reserved, excess = (money.units(int(nano)) for nano in amounts)
            balances.append(Balance(arm, campaign, channel, limit, spent, reserved, excess, period, int(start)))
        return balances

    @override
    def now(self) -> float:
        with self._errors():
            return self._now()

    @override
    def open_reservations(self) -> list[str]:
        with self._errors():
            return list(self._run("open", []))

    @override
    def room(self) -> Room | None:
        """Of its memory; what its disk has left is known to its machine alone."""
        with self._errors():
            memory = self.client.info("memory")
        limit = int(memory["maxmemory"])
        return Room("redis", max(0, limit - int(memory["used_memory"])), limit) if limit else None

    @override
    def close(self) -> None:
        self.client.close()

    def _begin_periods(self) -> None:
        """Begin the periods that are due by the server's clock; scripts know no calendar."""
        now, arguments = self._now(), []
        for account, terms in self.client.hgetall(self._keys[2]).items():
            _, _, period, timezone, _ = terms.split(" ", 4)
            arguments += [account, *period_at(period, timezone, now)]
        self._run("begin", [], *arguments)

    def _run(self, script: str, reservations: Sequence[str], *arguments: Any) -> Any:
        return self._scripts[script](*self._call(script, reservations, *arguments))

    def _call(self, script: str, reservations: Sequence[str], *arguments: Any) -> tuple[list[str], list[Any]]:
        keys = [*self._keys, *(f"{self.prefix}r:{name}" for name in reservations)]
        if script == "reserve" and arguments[0]:
            keys.append(f"{self.prefix}request:{arguments[0]}")
        now = "" if self._clock is None else self._clock()
        common = (self._seen_generation(), now, int(RETENTION_SECONDS))
        if script == "expire":
            return keys, [*common, *arguments, *reservations]
        return keys, [*common, *reservations, *arguments]

    def _seen_generation(self) -> str:
        """The generation of the first call: not the present one."""
        self.check()
        if self._generation is None:
            found = self.client.get(self._keys[0])
            if found is None:
                raise LedgerUnavailable(f"{self._name}: has no accounts yet")
            if not found.startswith(_FORM):
                version = found.partition("-")[0]
                raise LedgerUnavailable(f"{self._name}: a ledger of version {version}; this router reads {_FORM[:-1]}")
            self._generation = found
        return self._generation

    def check(self) -> None:
        """Raise LedgerUnavailable unless the server keeps its data."""
        if self._checked:
            return
        if not self.client.info("persistence")["aof_enabled"]:
            raise LedgerUnavailable(
                f"{self._name}: a restart of this Redis would forget what is spent; set 'appendonly yes' (and "
                "'appendfsync always') in redis.conf"
            )
        memory = self.client.info("memory")
        if memory["maxmemory"] and memory["maxmemory_policy"] != "noeviction":
            raise LedgerUnavailable(
                f"{self._name}: this Redis forgets keys when its memory is full; set 'maxmemory-policy noeviction' in "
                f"redis.conf (it is {memory['maxmemory_policy']})"
            )
        self._checked = True

    def _now(self) -> float:
        if self._clock is not None:
            return self._clock()
        seconds, micros = self.client.time()
        return seconds + micros / 1e6

    def __str__(self) -> str:
        return self._name

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            raise LedgerUnavailable(f"{self._name}: {error}") from error


def _reservation_arguments(wanted: Wanted) -> list[Any]:
    """What the script `reserve` takes after the reservation's id."""
    accounts = _matching(wanted.arm, wanted.campaign, wanted.channel)
    scope = _name_of(wanted.arm, wanted.campaign, wanted.channel)
    return [wanted.request or "", scope, money.reservation(wanted.amount, LARGEST), len(accounts) // 2, *accounts]


@lru_cache(1000)
def _matching(arm: str, campaign: str, channel: str) -> list[str]:
    """Accounts that a reservation draws on if they are in force: the arm's own, then as many of all arms."""
    budgets = list(itertools.product({campaign, "*"}, {channel, "*"}, PERIODS))
    return [_name_of(arm, *budget) for arm in (arm, ALL_ARMS) for budget in budgets]


def _name_of(*parts: str) -> str:
    return json.dumps(parts, separators=(",", ":"))
