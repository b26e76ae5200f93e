"""The shared ledger: a Redis or a Redis Cluster for any number of routers. Each call is one script, and so atomic.

Requirements on the server, checked when the ledger is opened and at each `expire`:

- `appendonly yes`. With `appendfsync always`, no answered call is lost. With `everysec`, a host that crashes (not a
  process) may lose the reservations of one second.
- `maxmemory-policy noeviction`, or no `maxmemory`: an evicted reservation would be forgotten.
- One primary. If a replica is promoted without the last writes of its primary, these writes are lost.

A server that has lost its accounts (restarted without its files, FLUSHALL) gives no new budget. Each process remembers
the first generation that it has seen, and refuses to spend until this generation is back or the process restarts.

All keys of a ledger on one Redis form one group. On a cluster this group is the bank, with the budgets of the campaign
"*". The accounts and reservations of a campaign lie in one of 16 more groups, chosen by the campaign's slot, which each
reservation id contains (`mtorl/log/decision_ids.py`). `redis_slices.py` divides the bank's budgets among the groups. If
a node has lost its groups, the ledger counts as lost, because `define` creates groups only while the ledger is new.
"""

import json
import math
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache, partial
from typing import Any

from typing_extensions import override

from mtorl.experiment.arm import ALL_ARMS
from mtorl.log.decision_ids import campaign_slot, slot_of
from mtorl.policy.periods import Period, period_at
from mtorl.runtime.clock_jumps import ClockJumps
from serving import messages
from serving.ledger import contract, money
from serving.ledger.location import RedisLocation
from serving.ledger.redis_pacing import RedisPacing
from serving.ledger.redis_server import TOGETHER, Call, RedisServer
from serving.ledger.redis_slices import ANY, PERIOD_OVER, TOO_LITTLE, Slices, added_up

# currency units; Lua's doubles are exact up to 9.007e15 nano-units
LARGEST = 9e6

_BATCH = 100  # most items per call, so that scripts of decisions can run in between
_PAID = -1  # another reservation pays for the request
_FORM = "1-"  # version of the keys and scripts

# key prefix of the campaign's group, and the campaign as JSON
_Campaign = tuple[str, str]


class RedisLedger(contract.Ledger):
    """A ledger in Redis, for amounts of up to 9 million currency units.

    Args:
        patience: Seconds to wait for a connection, and for an answer.
        clock: Returns seconds since 1970. By default, the clock of the Redis server is used, which all routers share.
    """

    shared = True

    def __init__(
        self, location: RedisLocation, password: str | None, patience: float, clock: Callable[[], float] | None = None
    ) -> None:
        self._clock = clock
        self._jumps = ClockJumps(clock or time.monotonic)
        self._generation: str | None = None
        self.server = server = RedisServer(location, password, patience)
        # the Redis hash with the generation, a random text
        self._general = _keys(server.prefix)[0]
        self._slices = Slices(self._run, self._begin_periods, server) if location.cluster else None
        self.pacing = RedisPacing(server)
        self._known = {prefix: contract.KnownBalances() for prefix in {server.prefix, *server.groups}}
        self._until: dict[_Campaign, float] = {}  # campaign -> end of its first current period

    @override
    def identity(self) -> str | None:
        with self.server.errors():
            found: str | None = self.server.client.hget(self._general, "generation")
        if found is not None and not found.startswith(_FORM):
            versions = {"found": found.partition("-")[0], "own": _FORM[:-1]}
            raise contract.LedgerUnavailable(messages.LEDGER_SCHEMA(ledger=self, **versions))
        return found

    @override
    def define(self, accounts: Iterable[contract.Account]) -> None:
        limits = {account: money.limit(account.limit, LARGEST) for account in accounts}
        divided = contract.parts(limits)
        of_campaigns: defaultdict[str, list[contract.Account]] = defaultdict(list)
        for account in sorted(limits, key=lambda a: (a.arm != ALL_ARMS, a.arm, a.channel, a.period)):
            of_campaigns[_text(account.campaign)].append(account)
        if self._generation is None:
            self.server.check()
            self._make()
        now = self.now()
        self._jumps.observe(now)
        known = self.server.hashes(f"{prefix}digests" for prefix in self._known)
        present, calls = _calendar(now), []
        # Define "*" last, so that a campaign that now gets its own accounts is never without a limit. Define "*"
        # always, because that call fails if the ledger has lost its data.
        for campaign in sorted({*of_campaigns, ANY}.union(*known), key=lambda name: name == ANY):
            arguments: list[Any] = []
            for a in of_campaigns[campaign]:
                names = (f"{_text(arm)},{_text(a.channel)},{a.period}" for arm in (a.arm, ALL_ARMS))
                start_end = present(a.period, a.timezone)
                arguments += [*names, limits[a], *start_end, a.timezone, divided[a.budget]]
            terms = [(a.arm, a.channel, a.period, limits[a], a.timezone) for a in of_campaigns[campaign]]
            terms_digest, prefix = contract.digest(json.dumps(terms)), self._group(json.loads(campaign))
            if campaign == ANY or not any(terms_digest == one.get(campaign) for one in known):
                keys = [f"{prefix}terms:{campaign}", f"{prefix}digests"]
                calls.append(self._call(prefix, keys, campaign, terms_digest, *arguments))
        if self._slices:
            # A recall updates the spent amounts, on which the limits depend.
            self._slices.recall()
        self.server.run_each("define", calls)
        if self._slices:
            # A slice may have grown under the previous limits.
            self._slices.recall()
            self.server.run_each("define", [self._call(*of) for of in self._slices.defined(calls[-1][1])])

    def _make(self) -> None:
        """Store the same random text in each group. A group without this text has lost its data."""
        client = self.server.client
        with self.server.errors():
            client.hsetnx(self._general, "generation", _FORM + uuid.uuid4().hex)
            if self.server.cluster and not client.hexists(self._general, "made"):
                made = client.hget(self._general, "generation")
                for prefix in self.server.groups:
                    client.hsetnx(_keys(prefix)[0], "generation", made)
                client.hset(self._general, "made", 1)

    @override
    def reserve_all(self, wanted: Sequence[contract.Wanted]) -> list[bool | Exception]:
        calls = [self._reservation(one) for one in wanted]
        answers = self.server.run_by_node("reserve", calls)
        if PERIOD_OVER in answers:
            over = [calls[i][1] for i, answer in enumerate(answers) if answer == PERIOD_OVER]
            self._begin_periods({(of[2], campaign) for of in over for campaign in (of[5], ANY)})
            answers = self.server.run_by_node("reserve", calls)  # scripts are idempotent
        return [self._granted(call, answer) for call, answer in zip(calls, answers, strict=True)]

    def _reservation(self, wanted: contract.Wanted) -> Call:
        request = "" if wanted.request is None else _text(wanted.request)
        scope = [_text(name) for name in (wanted.arm, wanted.campaign, wanted.channel)]
        prefix = self._group(wanted.campaign)
        if prefix != self._group_of(wanted.reservation_id):
            raise ValueError(f"{wanted.reservation_id}: the id is for another campaign than {wanted.campaign}")
        keys = [f"{prefix}r:{wanted.reservation_id}", *([f"{prefix}q:{request}"] if request else [])]
        amount = money.reservation(wanted.amount, LARGEST)
        return self._call(prefix, keys, wanted.reservation_id, *scope, amount, request)

    def _group(self, campaign: str) -> str:
        if campaign == "*":
            return self.server.prefix
        return self.server.groups[campaign_slot(campaign) % len(self.server.groups)]

    def _group_of(self, reservation_id: str) -> str:
        return self.server.groups[slot_of(reservation_id) % len(self.server.groups)]

    def _granted(self, call: Call, answer: Any) -> bool | Exception:
        if self._slices and answer == TOO_LITTLE:
            _, _, group, _, arm, _, channel, amount, _ = call[1]
            try:
                answer = self._slices.enlarge((group, arm, channel), amount, partial(self.server.run, "reserve", call))
            except contract.LedgerUnavailable as error:
                return error
        if isinstance(answer, Exception):
            return answer
        if answer == PERIOD_OVER:
            return contract.LedgerUnavailable(f"{self.server.name}: a period ended just now")
        if answer == _PAID:
            return contract.AlreadyReserved(f"{self.server.name}: another reservation pays for this request")
        return bool(answer == 1)

    @override
    def settle_all(self, costs: Sequence[contract.Cost]) -> list[contract.Settlement | Exception]:
        last, calls = "" if self._slices else "last", []
        for name, actual, event in costs:
            told = name, money.cost(actual), _text(event)
            calls.append(self._call(self._group_of(name), [], *told, int(contract.SETTLED_SECONDS), last))
        answers = self.server.run_by_node("settle", calls)
        return [self._settled(call, answer) for call, answer in zip(calls, answers, strict=True)]

    def _settled(self, call: Call, answer: Any) -> contract.Settlement | Exception:
        if self._slices and isinstance(answer, list) and answer[:1] == [TOO_LITTLE]:
            try:
                answer = self._settle_late(self._slices, call, answer)
            except contract.LedgerUnavailable as error:
                return error
        if isinstance(answer, Exception):
            return answer
        if not answer:
            return contract.UnknownReservation(call[1][3])
        return contract.Settlement(*map(money.units, map(int, answer)))

    def _settle_late(self, slices: Slices, call: Call, answer: Any) -> Any:
        _, arm, channel, missing = answer

        def again() -> Any:
            answer = self.server.run("settle", call)
            return answer[0] if answer[0] == TOO_LITTLE else answer

        answer = slices.enlarge((call[1][2], arm, channel), int(missing), again)
        if answer == TOO_LITTLE:  # charge only what is left in the slice
            answer = self.server.run("settle", (call[0], [*call[1][:-1], "last"]))
        return answer

    @override
    def cancel_all(self, reservation_ids: Sequence[str]) -> list[Exception | None]:
        kept = int(contract.RETENTION_SECONDS)
        calls = [self._call(self._group_of(name), [], name, kept) for name in reservation_ids]
        answers = self.server.run_by_node("cancel", calls)
        return [answer if isinstance(answer, Exception) else None for answer in answers]

    @override
    def expire(self, ttl: float) -> int:
        # The server may have been restarted with other settings.
        self.server.checked = False
        arguments = self._jumps.before(self.now(), ttl), _BATCH, int(contract.RETENTION_SECONDS)
        calls = [self._call(prefix, [], *arguments) for prefix in self.server.groups]
        answers = self.server.run_by_node("expire", calls)
        faults = [answer for answer in answers if isinstance(answer, Exception)]
        expired = sum(answer for answer in answers if not isinstance(answer, Exception))
        if faults and not expired:
            raise faults[0]
        return expired

    @override
    def balances(self) -> list[contract.Balance]:
        found = {prefix: known.read(partial(self._changes, prefix=prefix)) for prefix, known in self._known.items()}
        wholes = found.pop(self.server.prefix)
        return added_up(wholes, [b for of in found.values() for b in of]) if self.server.cluster else wholes

    def _changes(self, seen: int, prefix: str) -> contract.Changes:
        found: dict[str, list[contract.Balance]] = {}
        while True:
            now, number, rows = self._run(prefix, "changes", [], seen, _BATCH)
            seen = int(number)
            for campaign, fields in zip(rows[::2], rows[1::2], strict=True):
                balances, self._until[prefix, campaign] = _balances(campaign, fields)
                found[json.loads(campaign)] = balances
            if len(rows) == 2 * _BATCH:
                continue
            due = [of for of, until in self._until.items() if until <= float(now) and of[0] == prefix]
            if not due:
                return seen, found
            self._begin_periods(due)

    @override
    def now(self) -> float:
        return self.server.now() if self._clock is None else self._clock()

    @override
    def open_reservations(self) -> list[str]:
        return [name for prefix in self.server.groups for name in self._run(prefix, "open", [])]

    @override
    def room(self) -> contract.Room | None:
        """Return the free memory of the fullest node."""
        found = [(int(of["maxmemory"]), int(of["used_memory"])) for of in self.server.info("memory")]
        rooms = [contract.Room("redis", max(0, limit - used), limit) for limit, used in found if limit]
        return min(rooms, key=lambda room: room.free / room.limit, default=None)

    @override
    def close(self) -> None:
        self.server.close()

    def _begin_periods(self, campaigns: Iterable[_Campaign]) -> None:
        """Begin new periods, because Lua scripts can't compute with calendars and time zones."""
        now, names = self.now(), list(campaigns)
        random.shuffle(names)  # routers share this work by using different orders
        present = _calendar(now)
        for i in range(0, len(names), TOGETHER):
            some, calls = names[i : i + TOGETHER], []
            found = self.server.hashes(f"{prefix}terms:{campaign}" for prefix, campaign in some)
            for (prefix, campaign), terms in zip(some, found, strict=True):
                arguments: list[Any] = [campaign]
                for account, text in terms.items():
                    period: Any = account.rpartition(",")[2]
                    arguments += [account, *present(period, text.split(" ", 2)[1])]
                calls.append(self._call(prefix, [f"{prefix}terms:{campaign}"], *arguments))
            self.server.run_each("begin", calls)

    def _run(self, prefix: str, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        return self.server.run(script, self._call(prefix, keys, *arguments))

    def _call(self, prefix: str, keys: Sequence[str], *arguments: Any) -> Call:
        now = "" if self._clock is None else self._clock()
        return [*_keys(prefix), *keys], [self._seen_generation(), now, prefix, *arguments]

    def _seen_generation(self) -> str:
        """Return the generation that this process read first. Scripts fail if the server has another one."""
        self.server.check()
        if self._generation is None:
            found = self.identity()
            if found is None:
                raise contract.LedgerUnavailable(messages.NO_ACCOUNTS(ledger=self))
            self._generation = found
        return self._generation

    def __str__(self) -> str:
        return self.server.name


def _balances(campaign: str, fields: Sequence[str]) -> tuple[list[contract.Balance], float]:
    """Parse a campaign's Redis hash; returns its balances, and the end of their first period."""
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
                found.append(contract.Balance(*scope, limit, spent, reserved, excess, period, int(start)))  # type: ignore[arg-type]
                ends.append(float(until))
    return found, min(ends)


def _keys(prefix: str) -> list[str]:
    return [prefix + key for key in (f"accounts:{ANY}", "changed", "open")]


def _calendar(now: float) -> Callable[[Period, str], tuple[int, int]]:
    return cache(lambda period, timezone: period_at(period, timezone, now))


@lru_cache(10_000)
def _text(name: str) -> str:
    return json.dumps(name)
