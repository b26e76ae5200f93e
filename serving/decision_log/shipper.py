"""Carries the log away: every durable record reaches the sink at least once, in the order in which it was written.

Beside the router's decisions, not before them: one asyncio task, and a thread of its own for files. What is shipped is
noted after the sink has acknowledged it, so a crash in between sends records again. A sink that fails is asked again
and again, ever less often; a record that it refuses is set aside in `poison-<kind>.jsonl`, and the rest goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, get_args

import orjson

from mtorl.log.records import Kind
from serving.decision_log import position, tail
from serving.decision_log.sink import Refused, Sink, SinkUnavailable
from serving.decision_log.spool import Spool

log = logging.getLogger(__name__)

_KINDS: tuple[Kind, ...] = get_args(Kind)
_POLL_SECONDS = 0.25
_NOTE_SECONDS = 1.0  # between notes of the position: each makes the disk sync, which decisions wait for as well
_PRUNE_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_FEWEST_READ = 256  # at once, also for a sink that takes them one by one


class Shipper:
    """Ships a spool to a sink.

    Args:
        spool: The only one on its folder.
        sink: Where to.
        keep_hours: Age at which what is shipped may be deleted.
        open_reservations: Those of the ledger; None while it can't say, and nothing is deleted.

    Attributes:
        pending: Durable records that the sink has not acknowledged.
    """

    def __init__(
        self,
        spool: Spool,
        sink: Sink,
        keep_hours: float,
        open_reservations: Callable[[], Collection[str] | None],
    ) -> None:
        self._spool = spool
        self._sink = sink
        self._keep_seconds = keep_hours * 3600
        self._open_reservations = open_reservations
        self._largest = sink.largest
        self._at = self._noted = position.load(spool.folder)
        self._behind = {kind: tail.count(spool.folder, kind, at, spool.end(kind)) for kind, at in self._at.items()}
        self._appended = {kind: spool.durable[kind] for kind in _KINDS}  # when `_behind` was counted
        first = {kind: tail.read(spool.folder, kind, self._at[kind], spool.end(kind), 1) for kind in _KINDS}
        self._oldest = {kind: _event_time(batch) if batch else 0.0 for kind, batch in first.items()}  # that is pending
        self._level: dict[Kind, float] = dict.fromkeys(_KINDS, 0.0)  # when nothing was pending
        self._note_at = self._prune_at = 0.0
        self._draining = False
        self._tally: Counter[tuple[str, str]] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shipper")
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """See the class."""
        return sum(max(0, self._pending(kind)) for kind in _KINDS)

    @property
    def oldest_pending_seconds(self) -> float:
        """Age of the oldest record that is pending; 0 without one.

        An outcome's own time may be long before it was reported: no record is older than the time at which nothing
        was pending.
        """
        since = [max(self._oldest[kind], self._level[kind]) for kind in _KINDS if self._pending(kind) > 0]
        return max(0.0, time.time() - min(since)) if since else 0.0

    def take_tally(self) -> Counter[tuple[str, str]]:
        """What happened since the last call: ("shipped", kind), ("poison", kind) and ("failed", reason)."""
        taken, self._tally = self._tally, Counter()
        return taken

    def start(self) -> None:
        """Ship from now on; inside the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self, seconds: float) -> None:
        """Ship what is there, within a time, and end. What is left is shipped after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                while await self._round():
                    pass
        except Exception as error:  # TimeoutError too
            log.warning("%d records are left to ship: %s: %s", self.pending, type(error).__name__, error)
        await self._sink.close()
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        failures = 0
        while True:
            pause = 0.0
            try:
                shipped = await self._round()
                failures, pause = 0, 0.0 if shipped else _POLL_SECONDS
                await self._prune()
            except Exception as error:
                # Not SinkUnavailable: a disk that is full (no position can be noted), or a bug. Never the end of it.
                fault = error if isinstance(error, SinkUnavailable) else SinkUnavailable(_reason(error), repr(error))
                self._tally["failed", fault.reason] += 1
                pause = pause_seconds(failures, fault.retry_after)
                failures += 1
                trace = error if fault.reason == "internal" else None
                log.warning("shipping failed, again in %.1f s: %s", pause, fault, exc_info=trace)
            await asyncio.sleep(pause)

    async def _round(self) -> int:
        """One reading of each kind; returns how many records were finished."""
        await self._note()  # where that was too early, failed, or was cancelled
        finished = 0
        for kind in _KINDS:
            if not self._is_due(kind):
                continue
            batch = await self._in_thread(self._read, kind)
            if batch is None:
                continue
            self._oldest[kind] = _event_time(batch)
            try:
                await self._deliver(batch)
            finally:
                await self._note()
            finished += len(batch)
        return finished

    async def _note(self) -> None:
        now = time.monotonic()
        if (at := self._at) != self._noted and (self._draining or now >= self._note_at):
            self._note_at = now + _NOTE_SECONDS
            await self._in_thread(position.save, self._spool.folder, at)
            self._noted = at

    def _is_due(self, kind: Kind) -> bool:
        pending, now = self._pending(kind), time.time()
        if pending <= 0:
            self._level[kind] = now
            return False
        return self._draining or pending >= self._sink.largest or now - self._level[kind] >= self._sink.linger

    async def _deliver(self, batch: tail.Batch) -> int:
        """Bring a batch to its end, in halves if it is refused; returns how many records were set aside."""
        if len(batch) > self._largest:
            return sum([await self._deliver(piece) for piece in batch.cut(self._largest)])
        try:
            await self._sink.deliver(batch)
        except Refused as refusal:
            if len(batch) > 1:
                aside = sum([await self._deliver(half) for half in batch.cut((len(batch) + 1) // 2)])
                if len(batch) == 2 and not aside and self._largest > 1:
                    log.warning("the sink takes no batches: from now on one record at a time (%s)", refusal)
                    self._largest = 1
                return aside
            await self._in_thread(self._set_aside, batch, str(refusal))
            self._tally["poison", batch.kind] += 1
            self._advance(batch)
            return 1
        self._tally["shipped", batch.kind] += len(batch)
        self._advance(batch)
        return 0

    def _advance(self, batch: tail.Batch) -> None:
        self._at = {**self._at, batch.kind: batch.end}
        self._behind[batch.kind] -= len(batch)

    def _pending(self, kind: Kind) -> int:
        return self._behind[kind] + self._spool.durable[kind] - self._appended[kind]

    def _read(self, kind: Kind) -> tail.Batch | None:
        most = max(self._sink.largest, _FEWEST_READ)
        return tail.read(self._spool.folder, kind, self._at[kind], self._spool.end(kind), most)

    def _set_aside(self, batch: tail.Batch, reason: str) -> None:
        (line,) = batch.lines
        log.error("a %s record is refused and set aside: %s", batch.kind, reason)
        about = {"segment": batch.start.segment, "offset": batch.start.offset, "reason": reason}
        self._spool.set_aside(
            batch.kind, orjson.dumps({**about, "record": line.decode(errors="replace").rstrip()}) + b"\n"
        )

    async def _prune(self) -> None:
        if time.monotonic() < self._prune_at:
            return
        self._prune_at = time.monotonic() + _PRUNE_SECONDS
        await self._in_thread(self._prune_now)

    def _prune_now(self) -> None:
        self._spool.prune(self._noted, time.time() - self._keep_seconds, self._open_reservations)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


def pause_seconds(failures: int, asked: float) -> float:
    """How long to leave a sink alone that has failed so often before: doubling, at random, or what it asked for."""
    return max(asked, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures, 16)) * random.uniform(0.5, 1.0))


def _reason(error: Exception) -> str:
    return "disk" if isinstance(error, OSError) else "internal"


def _event_time(batch: tail.Batch) -> float:
    with contextlib.suppress(Exception):  # a line that is none is set aside by and by
        return datetime.fromisoformat(orjson.loads(batch.lines[0])["event_time"]).timestamp()
    return 0.0
