"""Ships the log: every durable record reaches the sink at least once, in the order in which it was written.

Decisions do not wait for it: it is one asyncio task with a thread of its own for files. The position is noted after the
sink has acknowledged a batch, so a crash in between sends the batch again. A sink that fails is retried with growing
pauses. A record that the sink refuses moves to `poison-<kind>.jsonl`, and the others are shipped.

The lake is the log of record: what it lacks stays. Any other sink may hold back as many bytes as the spool can still
grow by, about half of its quota. Beyond that, the oldest segments that the lake has are dropped for this sink, so it
never stops decisions, whether its backlog or the lake's fills the spool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Protocol

import orjson

from mtorl.log.records import Kind
from serving.decision_log import segments
from serving.decision_log.segments import Batch, Position
from serving.decision_log.spool import Spool

log = logging.getLogger(__name__)

_PLENTY = 16 << 20  # bytes: enough for a file, though more may gather
_FEWEST_READ = 256  # records that are read at once, also for a sink that takes them one by one
_POLL_SECONDS = 0.25  # between looks for new records
_NOTE_SECONDS = 1.0  # between notes of the position: each syncs the disk, which decisions need as well
_FIRST_PAUSE = 0.5  # seconds after a fault of the sink; doubled after each further one ...
_LONGEST_PAUSE = 30.0  # ... up to this


class Refused(Exception):
    """The sink will never take these records, however often they are sent; it may take others."""


class SinkUnavailable(Exception):
    """The sink takes no records at the moment, for a reason of one word (the metric's), and asks for some seconds."""

    def __init__(self, reason: str, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.retry_after = retry_after


class Sink(Protocol):
    """Takes batches in order; after a fault or crash the same batch again, or a longer one from the same record on."""

    largest: int  # records of a batch
    linger: float  # seconds for which records may gather
    kinds: tuple[Kind, ...]  # of the records that it takes

    async def deliver(self, batch: Batch) -> None:
        """Return when the batch is safe there; raises Refused for a record at fault, or SinkUnavailable."""

    async def close(self) -> None:
        """Let go of connections."""


class Shipper:
    """Ships a spool to a sink.

    Args:
        file: Beside the segments, for how far they are shipped.
        lake: Uploads the same spool; None: every record must reach this sink.

    Attributes:
        noted: Behind the last record that the sink has acknowledged, or that was dropped, and the file says so.
        tally: Counts since the last `take_tally`: ("shipped", kind), ("poison", kind), ("dropped", kind) and
            ("failed", reason).
    """

    def __init__(self, spool: Spool, sink: Sink, file: str, lake: Shipper | None = None) -> None:
        self._spool = spool
        self._sink = sink
        self._file = file
        self._lake = lake
        self._warned = False  # that records are dropped, since the backlog was last empty
        self.kinds = sink.kinds
        loaded = segments.positions(spool.folder, file)
        self._at = self.noted = {kind: loaded[kind] for kind in self.kinds}
        self._oldest: dict[Kind, float] = {}  # event time of the oldest record that is pending
        for kind, at in self._at.items():
            first = segments.read_batch(spool.folder, kind, at, spool.end(kind), 1)
            self._oldest[kind] = _event_time(first) if first else 0.0
        self._gathers = dict.fromkeys(self.kinds, -math.inf)  # steady time since which records may gather
        self._note_at = 0.0
        self._draining = False
        self.tally: Counter[tuple[str, str]] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shipper")
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Bytes of durable records that the sink has not acknowledged."""
        return sum(self._pending(kind) for kind in self.kinds)

    @property
    def oldest_pending_seconds(self) -> float:
        """Age of the oldest record that is pending; 0 without one.

        An outcome's own time may be long before its report: no record counts as older than one before it, or than the
        last time nothing was pending.
        """
        since = [self._oldest[kind] for kind in self.kinds if self._pending(kind) > 0]
        return max(0.0, time.time() - min(since)) if since else 0.0

    def take_tally(self) -> Counter[tuple[str, str]]:
        """Return the tally and begin a new one."""
        taken, self.tally = self.tally, Counter()
        return taken

    def start(self) -> None:
        """Ship from now on, in a task of the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self, seconds: float) -> None:
        """Ship what is pending for at most so many seconds, and end; the next start ships the rest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                while await self.ship_once():
                    pass
        except Exception as error:  # TimeoutError too
            log.warning("%d bytes are left to ship: %s: %s", self.pending, type(error).__name__, error)
        await self._sink.close()
        self._thread.shutdown(wait=False)

    async def ship_once(self) -> int:
        """Read and deliver one batch of each kind; returns how many records were finished."""
        if self._lake is not None:
            await self._drop(self._lake)
        await self._note()  # if it was too early for that the last time, or failed, or was cancelled
        finished = 0
        for kind in self.kinds:
            if not self._is_due(kind):
                continue
            most = max(self._sink.largest, _FEWEST_READ)
            span = self._at[kind], self._spool.end(kind)
            batch = await self._in_thread(segments.read_batch, self._spool.folder, kind, *span, most)
            if batch is None:
                continue
            self._oldest[kind] = max(self._oldest[kind], _event_time(batch))
            try:
                await self._deliver(batch, self._sink.largest)
            finally:
                await self._note()
            self._gathers[kind] = time.monotonic()
            finished += len(batch)
        return finished

    async def _run(self) -> None:
        failures = 0
        while True:
            pause = 0.0
            try:
                shipped = await self.ship_once()
                failures, pause = 0, 0.0 if shipped else _POLL_SECONDS
            except Exception as error:
                # Anything but SinkUnavailable is a full disk (no position can be noted) or a bug: shipping continues.
                reason = "disk" if isinstance(error, OSError) else "internal"
                fault = error if isinstance(error, SinkUnavailable) else SinkUnavailable(reason, repr(error))
                self.tally["failed", fault.reason] += 1
                pause = pause_after(failures, fault.retry_after)
                failures += 1
                trace = error if fault.reason == "internal" else None
                cause = {"cause": fault.reason}
                log.warning("shipping failed, again in %.1f s: %s", pause, fault, exc_info=trace, extra=cause)
            await asyncio.sleep(pause)

    async def _note(self) -> None:
        now = time.monotonic()
        if (at := self._at) != self.noted and (self._draining or now >= self._note_at):
            self._note_at = now + _NOTE_SECONDS
            await self._in_thread(segments.note_positions, self._spool.folder, self._file, at)
            self.noted = at

    def _is_due(self, kind: Kind) -> bool:
        pending, now = self._pending(kind), time.monotonic()
        if pending <= 0:
            self._oldest[kind], self._gathers[kind] = time.time(), now
            return False
        return self._draining or pending >= _PLENTY or now - self._gathers[kind] >= self._sink.linger

    async def _deliver(self, batch: Batch, size: int) -> None:
        """Deliver a batch in pieces, and a refused piece in halves, down to the records at fault."""
        for piece in batch.cut(size):
            what = "shipped"
            try:
                await self._sink.deliver(piece)
            except Refused as refusal:
                if len(piece) > 1:
                    await self._deliver(piece, (len(piece) + 1) // 2)
                    continue
                await self._in_thread(self._set_aside, piece, str(refusal))
                what = "poison"
            self.tally[what, piece.kind] += len(piece)
            self._at = {**self._at, piece.kind: piece.end}

    async def _drop(self, lake: Shipper) -> None:
        """Drop the oldest segments that the lake has, until no more is pending than the spool can still grow by."""
        self._warned = self._warned and self.pending > 0
        while (dropped := await self._in_thread(self._surplus, lake.noted)) is not None:
            if not self._warned:
                self._warned = True
                text = "the sink's backlog has reached %.0f MB: its oldest records are dropped, and stay in the lake "
                log.warning(text + "(mtorl_dropped_records_total)", self.pending / 1e6)
            self._at = {**self._at, dropped.kind: Position(dropped.start.segment + 1, 0)}
            self.tally["dropped", dropped.kind] += len(dropped)

    def _surplus(self, uploaded: Mapping[Kind, Position]) -> Batch | None:
        """Pending part of the oldest segment before `uploaded`, if the backlog is too large; None: nothing to drop."""
        folder = self._spool.folder
        if self.pending <= self._spool.room():
            return None
        first = [segments.read_batch(folder, kind, self._at[kind], uploaded[kind], 1) for kind in self.kinds]
        written = {
            batch.kind: segments.path_of(folder, batch.kind, batch.start.segment).stat().st_mtime
            for batch in first
            if batch is not None and batch.start.segment < uploaded[batch.kind].segment
        }
        if not written:
            return None
        kind = min(written, key=lambda kind: written[kind])
        return segments.read_batch(folder, kind, self._at[kind], uploaded[kind], sys.maxsize)

    def _pending(self, kind: Kind) -> int:
        return segments.distance(self._spool.folder, kind, self._at[kind], self._spool.end(kind))

    def _set_aside(self, batch: Batch, reason: str) -> None:
        (line,) = batch.lines
        log.error("a %s record is refused and set aside: %s", batch.kind, reason)
        record = line.decode(errors="replace").rstrip()
        about = {"segment": batch.start.segment, "offset": batch.start.offset, "reason": reason, "record": record}
        self._spool.set_aside(batch.kind, orjson.dumps(about) + b"\n")

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


def pause_after(failures: int, asked: float) -> float:
    """Seconds to wait after so many earlier failures in a row, at least what the sink asked for.

    Drawn from the upper half, so that routers don't retry all at once.
    """
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures, 16))
    return max(asked, longest * random.uniform(0.5, 1.0))


def _event_time(batch: Batch) -> float:
    with contextlib.suppress(Exception):  # a line that is no record: `_deliver` will set it aside
        return datetime.fromisoformat(orjson.loads(batch.lines[0])["event_time"]).timestamp()
    return 0.0
