"""The shared ledger: one Redis for any number of routers. Each call is one script, so one step.

Requirements of the server, checked when the ledger is opened and at each `expire`:

- `appendonly yes`. With `appendfsync always` nothing that was answered is ever lost; with `everysec` a machine (not a
  process) that dies takes up to a second of reservations with it.
- `maxmemory-policy noeviction`, or no `maxmemory`: an evicted reservation would be a forgotten one.
- One primary. A replica that is promoted without its primary's last writes has lost them.

A server that returns without the accounts (restarted without its files, FLUSHALL) gives no fresh budget: a process
remembers the generation that it has seen, and refuses to spend until that returns or the process is started again.

All keys carry one hash tag, `{mtorl-ledger:NAME}`: on Redis Cluster a ledger lies on one node, which the URL must name.
"""

from __future__ import annotations

import json
import math
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, RedisError
from redis.retry import Retry
from typing_extensions import override

from mtorl.experiment.arm import ALL_ARMS
from mtorl.policy.periods import Period, period_at
from mtorl.runtime.clock_jumps import ClockJumps
from serving.ledger import money
from serving.ledger.contract import (
    EXPIRE_AT_ONCE,
    RETENTION_SECONDS,
    SETTLED_SECONDS,
    Account,
    AlreadyReserved,
    Balance,
    Cost,
    Ledger,
    LedgerUnavailable,
    Room,
    Settlement,
    UnknownReservation,
    Wanted,
    digest,
    parts,
)
from serving.ledger.known_balances import Changes, KnownBalances
from serving.ledger.location import RedisLocation
from serving.ledger.redis_pacing import RedisPacing

LARGEST = 9e6  # currency units: Lua compares doubles, which are exact up to 2^53 = 9.007e15 nano-units

_LUA = Path(__file__).parent / "redis_scripts"
_SCRIPTS: dict[str, tuple[str, ...]] = {  # and the files that each begins with, after `common`
    **dict.fromkeys(("reserve", "changes", "open"), ()),
    **dict.fromkeys(("settle", "cancel", "expire"), ("finish",)),
    **dict.fromkeys(("define", "begin"), ("periods",)),
}
_BATCH = 100  # reservations that `expire` takes in one script, campaigns that are read in one: decisions get in between
_TOGETHER = 20  # scripts on campaigns that are sent together
_ANY = '"*"'
_PERIOD_OVER = -2  # a script's answer: the next period must begin first
_FORM = "1-"  # version of the keys and scripts: what the generation begins with

_Call = tuple[list[str], list[Any]]  # keys and arguments of a script


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
        self._keys = [self.prefix + key for key in (f"accounts:{_ANY}", "changed", "open")]
        self._known = KnownBalances()
        self._until: dict[str, float] = {}  # campaign -> when the first of its present periods ends
        self._scripts = {
            name: self.client.register_script(
                "".join((_LUA / f"{part}.lua").read_text() for part in ("common", *of, name))
            )
            for name, of in _SCRIPTS.items()
        }

    @override
    def identity(self) -> str | None:
        with self._errors():
            found = self.client.hget(self._keys[0], "generation")
        return found.removeprefix(_FORM) if found else None

    @override
    def claim(self) -> None:
        pass  # it is for many routers

    @override
    def define(self, accounts: Iterable[Account]) -> None:
        limits = {account: money.limit(account.limit, LARGEST) for account in accounts}
        divided = parts(limits)
        of_campaigns: defaultdict[str, list[Account]] = defaultdict(list)
        for account in sorted(limits, key=lambda a: (a.arm != ALL_ARMS, a.arm, a.channel, a.period)):
            of_campaigns[_text(account.campaign)].append(account)
        with self._errors():
            if self._generation is None:
                self.check()
                self.client.hsetnx(self._keys[0], "generation", _FORM + uuid.uuid4().hex)
            now = self._now()
            self._jumps.look(now)
            known = self.client.hgetall(self.prefix + "digests")
            present, calls = _calendar(now), []
            # The campaign "*" comes last: until then, a campaign that has accounts of its own now draws on both. It is
            # always set, so that a ledger which has lost its accounts is found.
            for campaign in sorted({*known, *of_campaigns, _ANY}, key=lambda name: name == _ANY):
                arguments: list[Any] = []
                for a in of_campaigns[campaign]:
                    names = (f"{_text(arm)},{_text(a.channel)},{a.period}" for arm in (a.arm, ALL_ARMS))
                    start_end = present(a.period, a.timezone)
                    arguments += [*names, limits[a], *start_end, a.timezone, divided[a.budget]]
                terms = [(a.arm, a.channel, a.period, limits[a], a.timezone) for a in of_campaigns[campaign]]
                terms_digest = digest(json.dumps(terms))
                if terms_digest != known.get(campaign) or campaign == _ANY:
                    keys = [f"{self.prefix}terms:{campaign}", self.prefix + "digests"]
                    calls.append(self._call("define", keys, campaign, terms_digest, *arguments))
            self._each("define", calls)
            self.client.script_load(self._scripts["reserve"].script)  # the first decision need not wait for it

    @override
    def reserve_all(self, wanted: Sequence[Wanted]) -> list[bool | Exception]:
        faults, calls = dict[int, Exception](), []
        with self._errors():
            for i, reservation in enumerate(wanted):
                try:
                    calls.append(self._reservation(reservation))
                except ValueError as error:
                    faults[i] = error
            answers = self._pipelined("reserve", calls)
            if _PERIOD_OVER in answers:
                over = {calls[i][1][5] for i, answer in enumerate(answers) if answer == _PERIOD_OVER}
                self._begin_periods({*over, _ANY})
                answers = self._pipelined("reserve", calls)  # a script may be repeated
        answered = iter(answers)
        return [faults[i] if i in faults else self._granted(next(answered)) for i in range(len(wanted))]

    def _reservation(self, wanted: Wanted) -> _Call:
        request = "" if wanted.request is None else _text(wanted.request)
        keys = [f"{self.prefix}r:{wanted.reservation_id}", *([f"{self.prefix}q:{request}"] if request else [])]
        scope = (_text(name) for name in (wanted.arm, wanted.campaign, wanted.channel))
        amount = money.reservation(wanted.amount, LARGEST)
        return self._call("reserve", keys, wanted.reservation_id, *scope, amount, request)

    def _pipelined(self, name: str, calls: Sequence[_Call]) -> list[Any]:
        script, answers = self._scripts[name], list[Any]()
        for _ in range(2):
            with self.client.pipeline(transaction=False) as pipeline:
                for keys, arguments in calls:
                    pipeline.evalsha(script.sha, len(keys), *keys, *arguments)
                answers = pipeline.execute(raise_on_error=False)
            if not any(isinstance(answer, NoScriptError) for answer in answers):
                break
            self.client.script_load(script.script)  # the server was started again; a script may be repeated
        return answers

    def _each(self, name: str, calls: Sequence[_Call]) -> None:
        """Run a script for each of many campaigns; decisions get in between."""
        for i in range(0, len(calls), _TOGETHER):
            for answer in self._pipelined(name, calls[i : i + _TOGETHER]):
                if isinstance(answer, Exception):
                    raise answer

    def _granted(self, answer: Any) -> bool | Exception:
        if isinstance(answer, Exception):
            return LedgerUnavailable(f"{self._name}: {answer}")
        if answer == _PERIOD_OVER:
            return LedgerUnavailable(f"{self._name}: a period ended just now")
        if answer < 0:
            return AlreadyReserved(f"{self._name}: another reservation pays for this request")
        return bool(answer)

    @override
    def settle_all(self, costs: Sequence[Cost]) -> list[Settlement | UnknownReservation]:
        told = [(cost.reservation_id, money.cost(cost.actual), _text(cost.event)) for cost in costs]
        with self._errors():
            calls = [self._call("settle", [], *cost, int(SETTLED_SECONDS)) for cost in told]
            answers = self._pipelined("settle", calls)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return [
            Settlement(*map(money.units, map(int, answer))) if answer else UnknownReservation(cost.reservation_id)
            for cost, answer in zip(costs, answers, strict=True)
        ]

    @override
    def cancel(self, reservation_id: str) -> None:
        with self._errors():
            self._run("cancel", reservation_id, int(RETENTION_SECONDS))

    @override
    def expire(self, ttl: float, most: int = EXPIRE_AT_ONCE) -> int:
        # Redis itself forgets what was finished long ago.
        total = 0
        with self._errors():
            self._checked = False  # the server may have been restarted with other settings
            latest = self._jumps.before(self._now(), ttl)
            while count := min(_BATCH, most - total):
                expired = self._run("expire", latest, count, int(RETENTION_SECONDS))
                total += expired
                if expired < count:
                    break
            return total

    @override
    def balances(self) -> list[Balance]:
        return self._known.read(self._changes)

    def _changes(self, seen: int) -> Changes:
        found: dict[str, list[Balance]] = {}
        with self._errors():
            while True:
                now, number, rows = self._run("changes", seen, _BATCH)
                seen = int(number)
                for campaign, fields in zip(rows[::2], rows[1::2], strict=True):
                    balances, self._until[campaign] = _balances(campaign, fields)
                    found[json.loads(campaign)] = balances
                if len(rows) == 2 * _BATCH:
                    continue
                due = [campaign for campaign, until in self._until.items() if until <= float(now)]
                if not due:
                    return seen, found
                self._begin_periods(due)

    @override
    def now(self) -> float:
        with self._errors():
            return self._now()

    @override
    def open_reservations(self) -> list[str]:
        with self._errors():
            return list(self._run("open"))

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

    def _begin_periods(self, campaigns: Iterable[str]) -> None:
        """Begin the periods of campaigns that are due by the server's clock; scripts know no calendar."""
        now, names = self._now(), list(campaigns)
        random.shuffle(names)  # routers that do the same at midnight share the work
        present = _calendar(now)
        for i in range(0, len(names), _TOGETHER):
            some, calls = names[i : i + _TOGETHER], []
            with self.client.pipeline(transaction=False) as pipeline:
                for campaign in some:
                    pipeline.hgetall(f"{self.prefix}terms:{campaign}")
                found = pipeline.execute()
            for campaign, terms in zip(some, found, strict=True):
                arguments: list[Any] = [campaign]
                for account, text in terms.items():
                    period: Any = account.rpartition(",")[2]
                    arguments += [account, *present(period, text.split(" ", 2)[1])]
                calls.append(self._call("begin", [f"{self.prefix}terms:{campaign}"], *arguments))
            self._each("begin", calls)

    def _run(self, script: str, *arguments: Any) -> Any:
        return self._scripts[script](*self._call(script, [], *arguments))

    def _call(self, script: str, keys: Sequence[str], *arguments: Any) -> _Call:
        now = "" if self._clock is None else self._clock()
        return [*self._keys, *keys], [self._seen_generation(), now, self.prefix, *arguments]

    def _seen_generation(self) -> str:
        """The generation of the first call: not the present one."""
        self.check()
        if self._generation is None:
            found = self.client.hget(self._keys[0], "generation")
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


def _balances(campaign: str, fields: Sequence[str]) -> tuple[list[Balance], float]:
    """Accounts in force by the hash of a campaign's accounts, and when the first of their periods ends."""
    hashed = dict(zip(fields[::2], fields[1::2], strict=True))
    found, ends = [], [math.inf]
    for name in sorted(field for field in hashed if field.startswith('"')):
        arm, channel = json.loads(f"[{name}]")
        for text in hashed[name].split(";")[:-1]:
            period, in_force, _, start, until, *amounts = text.split(" ")
            if in_force == "1":
                limit, spent, reserved = (int(nano) / money.NANO for nano in amounts)
                excess = int(hashed.get(f"excess:{name},{period}", 0)) / money.NANO
                scope = arm, json.loads(campaign), channel
                found.append(Balance(*scope, limit, spent, reserved, excess, period, int(start)))  # type: ignore[arg-type]
                ends.append(float(until))
    return found, min(ends)


def _calendar(now: float) -> Callable[[Period, str], tuple[int, int]]:
    return cache(lambda period, timezone: period_at(period, timezone, now))


@lru_cache(10_000)
def _text(name: str) -> str:
    return json.dumps(name)
