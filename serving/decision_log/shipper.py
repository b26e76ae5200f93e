"""Ships the log to a sink: every durable record reaches the sink at least once, in the order of writing.

If the sink fails, the shipper retries with growing pauses. A record that the sink refuses is moved to
`poison-<kind>.jsonl`. If too many records wait for a sink other than the lake, the oldest ones are skipped.
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

_PLENTY = 16 << 20  # if more bytes are pending, ship without waiting for `linger`
_FEWEST_READ = 256  # fewest records to read from disk at once
_POLL_SECONDS = 0.25  # between two checks for new records
_NOTE_SECONDS = 1.0  # between two writes of the positions, which sync the disk
_FIRST_PAUSE = 0.5  # pause after the sink's first failure; each further failure doubles the pause
_LONGEST_PAUSE = 30.0  # longest pause after failures


class Refused(Exception):
    """Raised by a sink that will never accept the records of this batch."""


class SinkUnavailable(Exception):
    """Raised by a sink that accepts no records at present.

    `retry_after` is the number of seconds after which the sink wants the next attempt.
    """

    def __init__(self, reason: str, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.retry_after = retry_after


class Sink(Protocol):
    """A destination to which batches of records are delivered in order.

    After a failure, the same records are delivered again, perhaps in a larger batch.
    """

    largest: int  # most records in one call of `deliver`
    linger: float  # seconds for which records are collected before a delivery
    kinds: tuple[Kind, ...]  # kinds of records that the sink accepts

    async def deliver(self, batch: Batch) -> None:
        """Return once a batch is stored. Raises Refused for an invalid record, or SinkUnavailable."""

    async def close(self) -> None:
        """Close connections."""


class Shipper:
    """A background task that ships the records of a spool to one sink.

    Args:
        file: Name of the file in the spool that stores the shipped positions.
        lake: The shipper to the lake. If the backlog is too large, old records that it has shipped are skipped.

    Attributes:
        noted: The stored position up to which records were shipped or skipped, by kind.
        tally: Numbers of records, by ("shipped", kind), ("poison", kind) or ("dropped", kind), and numbers of failures,
            by ("failed", reason).
    """

    def __init__(self, spool: Spool, sink: Sink, file: str, lake: Shipper | None = None) -> None:
        self._spool = spool
        self._sink = sink
        self._file = file
        self._lake = lake
        self._warned = False  # whether the present backlog has caused a warning
        self.kinds = sink.kinds
        loaded = segments.positions(spool.folder, file)
        self._at = self.noted = {kind: loaded[kind] for kind in self.kinds}
        self._oldest: dict[Kind, float] = {}  # event time of the oldest pending record
        for kind, at in self._at.items():
            first = segments.read_batch(spool.folder, kind, at, spool.end(kind), 1)
            self._oldest[kind] = _event_time(first) if first else 0.0
        # Since when records are collected for the next batch.
        self._gathers = dict.fromkeys(self.kinds, -math.inf)
        self._note_at = 0.0
        self._draining = False
        self.tally: Counter[tuple[str, str]] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shipper")
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Bytes that the sink has not acknowledged."""
        return sum(self._pending(kind) for kind in self.kinds)

    @property
    def oldest_pending_seconds(self) -> float:
        """Age of the oldest record that waits to be shipped, in seconds; 0 if there is none."""
        since = [self._oldest[kind] for kind in self.kinds if self._pending(kind) > 0]
        return max(0.0, time.time() - min(since)) if since else 0.0

    def take_tally(self) -> Counter[tuple[str, str]]:
        """Return the tally and begin a new one."""
        taken, self.tally = self.tally, Counter()
        return taken

    def start(self) -> None:
        """Start to ship records, in a task."""
        self._task = asyncio.create_task(self._run())

    async def close(self, seconds: float) -> None:
        """Ship pending records for at most `seconds`, then stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                while await self.ship_once():
                    pass
        except Exception as error:  # includes TimeoutError
            log.warning("%d bytes are left to ship: %s: %s", self.pending, type(error).__name__, error)
        await self._sink.close()
        self._thread.shutdown(wait=False)

    async def ship_once(self) -> int:
        """Deliver one batch of each kind; returns the number of records shipped or set aside."""
        if self._lake is not None:
            await self._drop(self._lake)
        # The last round may not have stored its positions.
        await self._note()
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
                # Retry after any error, for instance if the disk is full.
                reason = "disk" if isinstance(error, OSError) else "internal"
                fault = error if isinstance(error, SinkUnavailable) else SinkUnavailable(reason, repr(error))
                self.tally["failed", fault.reason] += 1
                pause = pause_after(failures, fault.retry_after)
                failures += 1
                trace = error if fault.reason == "internal" else None
                cause = {"cause": fault.reason}
                log.warning("shipping failed, next attempt in %.1f s: %s", pause, fault, exc_info=trace, extra=cause)
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
        """Deliver a batch in pieces of `size` records, and halve refused pieces to find invalid records."""
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
        """Skip records that are in the lake, while the sink's backlog is too large."""
        self._warned = self._warned and self.pending > 0
        while (dropped := await self._in_thread(self._surplus, lake.noted)) is not None:
            if not self._warned:
                self._warned = True
                text = "the sink's backlog has reached %.0f MB: its oldest records are dropped, but are in the lake "
                log.warning(text + "(mtorl_dropped_records_total)", self.pending / 1e6)
            self._at = {**self._at, dropped.kind: Position(dropped.start.segment + 1, 0)}
            self.tally["dropped", dropped.kind] += len(dropped)

    def _surplus(self, uploaded: Mapping[Kind, Position]) -> Batch | None:
        """Return the records to skip from the oldest segment that is in the lake, if any."""
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
    """Return the seconds until the next retry, at least `asked`. They double with each failure, up to a maximum.

    The pause is partly random, so that routers do not retry at the same moment.
    """
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures, 16))
    return max(asked, longest * random.uniform(0.5, 1.0))


def _event_time(batch: Batch) -> float:
    with contextlib.suppress(Exception):  # `_deliver` sets invalid records aside
        return datetime.fromisoformat(orjson.loads(batch.lines[0])["event_time"]).timestamp()
    return 0.0
