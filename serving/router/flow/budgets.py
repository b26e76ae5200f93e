"""Reserves money before an exposure, settles it by the cost, and releases it if nothing was shown.

A settlement that the ledger can't take now is retried until it can. After a crash, `reconcile` settles the costs in the
decision log, and releases reservations of decisions that never reached the log, and so never reached a caller.

A ledger that was lost must grant no fresh budget. So the log's folder keeps the identity of the ledger that paid for
its decisions, in the file `ledger`. At a start, another ledger is refused until the right one is restored, or until a
person agrees (`mtorl ledger agree`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mtorl.experiment.arm import ALL_ARMS, OVERRIDE
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.layers import Experiments
from mtorl.log.decision_ids import time_of
from mtorl.log.lake import Lake, lake_database
from mtorl.runtime.files import replacing
from serving.decision_log import Spool, segments
from serving.ledger import (
    Account,
    AlreadyReserved,
    Balance,
    Cost,
    Ledger,
    LedgerUnavailable,
    UnknownReservation,
    Wanted,
)
from serving.router.flow.pacer import Pacer
from serving.router.flow.pending_decision import PendingDecision

RETRY_SECONDS = 1.0
_CLOCKS_DIFFER = 60.0  # seconds; this clock and that of a shared ledger
_FEW = 20  # exposures of the dearest channel; an arm that can pay for less is starved of it
_SPELLED = {"total": "in all", "day": "a day", "hour": "an hour"}
_MOST_FAULTS = 3  # in a row, until the rest waits for the next round
MOST_PENDING = 100_000  # some 20 MB
_NEWEST = 50_000  # decisions, and outcomes, that a start reads: more than are at work when a router crashes
_NEVER, _MINUTE = datetime.max.replace(tzinfo=UTC), timedelta(minutes=1)
_TOGETHER = 500  # costs that a start settles in one round trip
_SETTLING = 4  # threads that settle, and may share a commit
_PAID_BY = "ledger"  # file in the folder of the log

Costs = Mapping[str, float]
"""Event -> cost, currency units; empty: the ad was not shown."""

log = logging.getLogger(__name__)


class BudgetsClosed(RuntimeError):
    """Nothing may be reserved now; the ledger was not asked."""


class NoAccount(RuntimeError):
    """No budget of the experiment is for this campaign and channel; the ledger was not asked."""


class Budgets:
    """Reserves money in a ledger whose calls block; for one event loop, and for lanes that reserve.

    The cost cap of a channel, currency units, is reserved for an exposure, unless the request says that it costs less.
    """

    def __init__(self, ledger: Ledger, cost_cap: Mapping[str, float]) -> None:
        self._ledger = ledger
        self.cost_cap = cost_cap
        self.settler = Settler(ledger)
        self._accounts_of: Experiments | None = None
        self._accounts: frozenset[tuple[str, str, str]] = frozenset()  # arm, campaign and channel of each
        self.ready = False  # whether the ledger has been compared with the log: before, nothing may be reserved
        self.pacer = Pacer(ledger, cost_cap)

    def wanted(self, decision: PendingDecision) -> tuple[Wanted, Experiment]:
        """The reservation for a decision that is to be exposed, and its experiment; raises BudgetsClosed, NoAccount."""
        self._check_open()
        campaign, channel = decision.request.campaign_id, decision.action.channel
        if not any((decision.account, c, x) in self._accounts for c in (campaign, "*") for x in (channel, "*")):
            raise NoAccount(f"no budget of the experiment is for campaign {campaign!r} and channel {channel!r}")
        amount = min(decision.request.costs.get(channel, math.inf), self.cost_cap[channel])
        wanted = Wanted(decision.decision_id, decision.account, campaign, channel, amount, decision.key)
        return wanted, decision.experiment

    def reserve(self, wanted: Sequence[tuple[Wanted, Experiment]]) -> list[float | Exception | None]:
        """Reserve in one call of the ledger, which blocks.

        Returns, for each, the amount in currency units; None: an account has too little left. Or why nothing is
        reserved: BudgetsClosed (refused by accounts that are not the experiment's), AlreadyReserved (another decision
        on the same request has the money). Raises LedgerUnavailable: whether it was reserved is unknown, so cancel it.
        """
        in_force = self._accounts_of
        answers: list[float | Exception | None] = []
        granted = self._ledger.reserve_all([one for one, _ in wanted])
        for (one, experiment), answer in zip(wanted, granted, strict=True):
            if isinstance(answer, Exception):
                answers.append(answer)
            elif not answer and (in_force is None or not in_force.holds(experiment)):  # by those of the previous file
                answers.append(BudgetsClosed("the accounts of the changed experiment are not set up yet"))
            else:
                answers.append(one.amount if answer else None)
        return answers

    def wanted_before(self, decision: PendingDecision) -> Wanted:
        """The reservation of the previous answer; raises BudgetsClosed."""
        self._check_open()
        before, campaign = decision.before, decision.request.campaign_id
        assert before is not None, "there is an answer"
        answer, amount = before.answer, before.reserved  # as then: the cost cap may be another since a restart
        return Wanted(answer["decision_id"], before.account, campaign, answer["channel"], amount, decision.key)

    def still_pay(self, wanted: Sequence[Wanted]) -> list[bool | Exception]:
        """Whether the money of previous answers is still reserved or spent; blocks. Raises LedgerUnavailable."""
        # A repeated call changes nothing and answers the same, unless the ledger has lost the reservation and paid for
        # the request again.
        granted = self._ledger.reserve_all(wanted)
        return [False if isinstance(one, AlreadyReserved) else one for one in granted]

    def _check_open(self) -> None:
        if not self.ready:
            raise BudgetsClosed("the ledger is not set up yet")
        if self.settler.full:
            raise BudgetsClosed("too much is still to be settled")

    async def set_accounts(self, experiments: Experiments, spool: Spool) -> None:
        """Define the accounts; the first time, also finish what a crash left. Only then may money be spent.

        Raises LedgerInUse (a ledger that can't be shared has another router), LedgerUnavailable (try again), or
        ValueError (this kind of ledger can't hold a limit).
        """
        self._accounts_of = None
        if not self.ready:
            await asyncio.to_thread(self._ledger.claim)
            await asyncio.to_thread(check_ledger, self._ledger, spool.folder)
        accounts = [
            Account(x.arm, x.campaign, x.channel, x.limit, x.period, x.timezone) for x in experiments.accounts()
        ]
        await asyncio.to_thread(self._ledger.define, accounts)
        self._accounts = frozenset((x.arm, x.campaign, x.channel) for x in accounts)
        self._accounts_of = experiments
        if not self.ready:
            await asyncio.to_thread(remember_ledger, self._ledger, spool.folder)
            finished = await asyncio.to_thread(reconcile, self._ledger, spool)
            if finished:
                log.warning("finished %d reservations that a crash had left open", finished)
            self.ready = True

    def set_up_for(self, experiments: Experiments) -> bool:
        """Whether the accounts are those of these experiments, and money may be spent."""
        return self._accounts_of is experiments and self.ready

    async def expire(self, ttl: float) -> int:
        """Release some reservations older than `ttl` seconds (`Ledger.expire`); returns how many."""
        if not self.ready:  # the log may hold a cost that is still to be settled
            return 0
        return await asyncio.to_thread(self._ledger.expire, ttl)

    def close(self) -> None:
        """Stop without waiting for calls that hang."""
        self.settler.close()
        self._ledger.close()


def concerns(balances: Sequence[Balance], now: float, cost_cap: Mapping[str, float]) -> str:
    """Warnings for people: budgets that take no or few reservations at `now` (seconds since 1970), and why; or "ok"."""
    found = []
    wholes = [b for b in balances if b.arm == ALL_ARMS]
    overspent = {(b.campaign, b.channel, b.period) for b in wholes if b.spent + b.reserved > b.limit}
    for b in balances:
        budget = b.campaign, b.channel, b.period
        name = f"campaign {b.campaign}, channel {b.channel}, {b.period}"
        if b.arm == ALL_ARMS and budget in overspent:
            found.append(
                f"{name}: {b.spent:g} spent and {b.reserved:g} reserved of an amount of {b.limit:g}: nobody is exposed"
            )
        if b.arm == ALL_ARMS and b.start > now + _CLOCKS_DIFFER:
            found.append(f"{name}: a clock was ahead, and this period has begun too early: its money must last")
        caps = {channel: cap for channel, cap in cost_cap.items() if b.channel in ("*", channel)}
        dearest = max(caps, key=caps.__getitem__, default=None)
        if b.arm == ALL_ARMS or budget in overspent or dearest is None:
            continue
        if b.limit <= b.spent + b.reserved:  # nothing is left, as for an arm that is switched off
            continue
        if 0 < b.limit < _FEW * caps[dearest]:
            found.append(
                f"{name}, arm {b.arm}: {b.limit:g} {_SPELLED[b.period]} pays for {math.floor(b.limit / caps[dearest])} "
                f"exposures of {dearest} ({caps[dearest]:g} each): raise the amount"
                + ("" if b.arm.endswith(f"/{OVERRIDE}") else ", or ramp up faster")
            )
    return "; ".join(found) or "ok"


class Settler:
    """Settles and cancels, at once or later."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Threads of its own: a reservation, for which a caller waits, comes before a thousand reported costs.
        self._pool = ThreadPoolExecutor(_SETTLING, thread_name_prefix="settle")
        self._pending: dict[str, dict[str, float]] = {}
        self._wake = asyncio.Event()

    async def finish(self, reservation_id: str, costs: Costs, seconds: float) -> None:
        """Settle costs, or cancel if there are none, within `seconds`; if that fails for any reason, later."""
        try:
            async with asyncio.timeout(seconds):
                await self._apply(reservation_id, costs)
        except Exception as error:  # TimeoutError too
            about = {"cause": type(error).__name__, "decision_id": reservation_id}
            log.warning("to be finished later, %s: %s", about["cause"], error, extra=about)
            self.finish_later(reservation_id, costs)
        except asyncio.CancelledError:  # at the end of the process, of a report that takes too long
            self.finish_later(reservation_id, costs)
            raise

    def finish_later(self, reservation_id: str, costs: Costs) -> None:
        """Settle costs, or cancel if there are none, in the background. A cancel undoes no cost that was reported."""
        self._pending[reservation_id] = {**self._pending.get(reservation_id, {}), **costs}
        self._wake.set()

    @property
    def pending(self) -> int:
        """Reservations that wait."""
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether so many wait that nothing more may be reserved."""
        return self.pending >= MOST_PENDING

    def close(self) -> None:
        """Stop without waiting for calls that hang."""
        self._pool.shutdown(wait=False)

    async def run(self) -> None:
        """The background task."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.flush():
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()

    async def flush(self) -> bool:
        """Try all that wait; returns whether nothing is left."""
        faults = 0
        for reservation_id, costs in list(self._pending.items()):
            try:
                await self._apply(reservation_id, costs)
            except Exception as error:
                about = {"cause": type(error).__name__, "decision_id": reservation_id}
                log.warning("not finished yet, %s: %s", about["cause"], error, extra=about)
                if reservation_id in self._pending:  # moved to the end, behind the others
                    self._pending[reservation_id] = self._pending.pop(reservation_id)
                faults += 1
                if faults == _MOST_FAULTS:  # the ledger is away
                    return False
                continue
            faults = 0
            if self._pending.get(reservation_id) is costs:  # else there is more by now
                del self._pending[reservation_id]
        return not self._pending

    async def _apply(self, reservation_id: str, costs: Costs) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, finish, self._ledger, reservation_id, costs)


def finish(ledger: Ledger, reservation_id: str, costs: Costs) -> None:
    """Settle costs, or cancel if there are none; an unknown reservation is ignored."""
    if not costs:
        ledger.cancel(reservation_id)
    for event, actual in costs.items():
        with contextlib.suppress(UnknownReservation):
            ledger.settle(reservation_id, actual, event)


def costs_of(outcome: Mapping[str, Any]) -> Costs | None:
    """Costs that an outcome reports for its reservation; None: it concerns no reservation."""
    return {"cost": {outcome["event_id"]: outcome["value"]}, "cancel": {}}.get(outcome["kind"])


def reconcile(ledger: Ledger, spool: Spool) -> int:
    """Finish the reservations that a crash left open; returns how many.

    Only the newest decisions of the log are read. A reservation that is older, or whose decision is in the log without
    a cost, stays open until a cost comes or it expires. A newer one that is not in the log belongs to a decision that
    the crash has ended. Nothing may be reserved here meanwhile: a decision on its way to the log would look like that.
    In a shared ledger, only reservations with the identity of our log are ours (`PendingDecision.start`).

    A cost may also have missed the ledger although its reservation is not open: a second cost, or one after the
    reservation had expired. So the costs among the newest outcomes are settled again. A ledger forgets the
    events of a reservation only together with the reservation, and then charges nothing: no cost counts twice.
    """
    unfinished = set(ledger.open_reservations())
    exposed: set[str] = set()
    finished: set[str] = set()  # at first, withdrawn decisions
    read, oldest = 0, None
    for record in spool.newest("decision", _NEWEST) if unfinished else ():
        name = record["decision_id"]
        read, oldest = read + 1, oldest or time_of(name)
        if name in unfinished:
            (exposed if record["expose"] and not record["withdrawn"] else finished).add(name)
    # Records stand nearly in the order of their ids: none of a minute later lies before the first one that was read.
    ours = {name for name in unfinished - exposed if name.endswith(spool.identity)}
    if read == _NEWEST or not spool.never_pruned("decision"):
        since = oldest + _MINUTE if oldest else _NEVER
        ours = {name for name in ours if time_of(name) >= since}
        # But where a clock was set back, or a withdrawal was written late, later ids stand in older segments.
        if ours:
            ours -= {record["decision_id"] for record in spool.written_since("decision", since.timestamp())}
    finished |= ours
    for name in finished:
        ledger.cancel(name)
    costs_by_decision = ((outcome["decision_id"], costs_of(outcome)) for outcome in spool.newest("outcome", _NEWEST))
    told: list[Cost] = []
    for name, costs in costs_by_decision:
        if costs is None:
            continue
        told += [Cost(name, cost, event) for event, cost in costs.items()]
        if not costs or len(told) >= _TOGETHER:  # a cancellation keeps its place among the costs
            ledger.settle_all(told)
            told.clear()
        if not costs:
            ledger.cancel(name)
        finished |= {name} & unfinished
    ledger.settle_all(told)
    return len(finished)


class LedgerLost(LedgerUnavailable):
    """This ledger does not know what the decisions of the log have spent."""


def check_ledger(ledger: Ledger, folder: Path) -> None:
    """Raise LedgerLost unless the ledger paid for the log in this folder, or the log knows of no ledger."""
    found, known = ledger.identity(), _paid_by(folder)
    if found is not None and known in (None, found):
        return
    if known is None and not any(record["expose"] for record in segments.read(folder, "decision")):
        return
    raise LedgerLost(
        f"{ledger} {'has no accounts' if found is None else 'is another one'}, but {folder} holds decisions that a "
        "ledger paid for: restore that ledger, or lower the budgets by what was spent and run "
        "`mtorl ledger agree ROUTER.yaml`"
    )


def remember_ledger(ledger: Ledger, folder: Path) -> None:
    """Keep the identity of the ledger that pays for a log from now on; raises LedgerUnavailable."""
    identity = ledger.identity()
    if identity is None or identity == _paid_by(folder):
        return
    try:
        with replacing(folder / _PAID_BY, durable=True) as unfinished:
            unfinished.write_text(f"{identity}\n")
    except OSError as error:
        raise LedgerUnavailable(f"{folder / _PAID_BY}: {error}") from error


def agree(ledger: Ledger, folder: Path, lake: Lake) -> float:
    """Accept a ledger for a log; returns the costs in log and lake. Raises LedgerUnavailable, LogError."""
    if ledger.identity() is None:
        ledger.define([])
    remember_ledger(ledger, folder)
    outcomes = segments.read(folder, "outcome")
    costs = {one["decision_id"] + one["event_id"]: one["value"] for one in outcomes if one["kind"] == "cost"}
    with lake_database(lake) as db:
        uploaded = f"FROM {lake.records(db, 'outcome')} WHERE kind = 'cost'"
        ((total,),) = db.execute(
            f"SELECT coalesce(fsum(value), 0) {uploaded} AND decision_id || event_id NOT IN (SELECT unnest($known))",
            {"known": list(costs)},
        ).fetchall()
    return math.fsum([total, *costs.values()])


def _paid_by(folder: Path) -> str | None:
    path = folder / _PAID_BY
    return path.read_text().strip() if path.exists() else None
