"""The durable spool: many requests append, one thread writes, and one sync makes a whole batch durable.

While the disk works on a batch the next one gathers, so the number of syncs follows the disk and not the traffic. All
knowledge about ids lives in that thread: no lock, and an event that arrives twice at once is still counted once.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import orjson

from serving.decision_log import segments
from serving.decision_log.index import Index, Status
from serving.decision_log.records import Kind

__all__ = ["Spool", "SpoolError", "SpoolUnavailable", "Status"]

_KINDS: tuple[Kind, ...] = get_args(Kind)
_LARGEST_BATCH = 512
_LARGEST_QUEUE = 20_000  # records that wait for a disk that hangs; more are refused


class SpoolError(RuntimeError):
    """The folder can't be used."""


class SpoolUnavailable(RuntimeError):
    """The record is not durable: send it again, or do without."""


@dataclass(frozen=True)
class _Entry:
    kind: Kind
    record: dict[str, Any]
    line: bytes
    done: Future[Status]


class Spool:
    """A folder of decision and outcome records. One process at a time may hold it.

    Args:
        folder: Made if it does not exist. What a crash left is put in order, and all records are read once.
        late_after: An outcome that happened this long after its decision is late.
        segment_bytes: Size at which a file is followed by the next.

    Attributes:
        torn: Pieces of records that the last crash left and that were set aside.
        counts: Records by (kind, status), those of earlier runs included.

    Raises:
        SpoolError: the folder can't be written to, or another process holds it.
    """

    def __init__(
        self,
        folder: str | Path,
        late_after: timedelta = timedelta(days=7),
        segment_bytes: int = segments.SEGMENT_BYTES,
    ) -> None:
        self.folder = Path(folder)
        self.counts: Counter[tuple[Kind, Status]] = Counter()
        self._index = Index(late_after)
        self._queue: queue.Queue[_Entry | None] = queue.Queue(_LARGEST_QUEUE)
        self._writers = {kind: segments.SegmentWriter(self.folder, kind, segment_bytes) for kind in _KINDS}
        self._closed = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o640)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise SpoolError(f"{self.folder}: another process writes to this folder") from None
        except OSError as error:
            raise SpoolError(f"{self.folder}: {error}") from error
        self.torn = sum(segments.repair(self.folder, kind) for kind in _KINDS)
        for kind in _KINDS:
            for record in self.read(kind):
                self.counts[kind, self._index.add(kind, record)] += 1
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    async def append(self, kind: Kind, record: dict[str, Any]) -> Status:
        """Write a record; returns when it is durable, with what it turned out to be.

        Cancelling the call (a timeout, for instance) takes the record back unless it is being written at that moment.

        Raises:
            SpoolUnavailable: it is not durable.
        """
        return await asyncio.wrap_future(self.submit(kind, record))

    def submit(self, kind: Kind, record: dict[str, Any]) -> Future[Status]:
        """Like `append` for code that does not wait, or waits in a thread."""
        entry = _Entry(kind, record, orjson.dumps(record) + b"\n", Future())
        try:
            if self._closed:
                raise SpoolUnavailable(f"{self.folder}: closed")
            self._queue.put_nowait(entry)
        except queue.Full:
            raise SpoolUnavailable(f"{self.folder}: {_LARGEST_QUEUE} records wait for the disk") from None
        return entry.done

    @property
    def alive(self) -> bool:
        """Whether the thread that writes still does."""
        return self._thread.is_alive()

    def read(self, kind: Kind) -> Iterator[dict[str, Any]]:
        """All durable records of a kind, oldest first."""
        return segments.read(self.folder, kind)

    def close(self) -> None:
        """Write what waits, and let go of the folder."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        os.close(self._lock)

    def _run(self) -> None:
        closing = False
        while not closing:
            entries = [self._queue.get()]
            while len(entries) < _LARGEST_BATCH and not self._queue.empty():
                entries.append(self._queue.get_nowait())
            closing = None in entries
            # A future that was cancelled meanwhile drops out here; one that is running can't be cancelled any more.
            self._write([e for e in entries if e is not None and e.done.set_running_or_notify_cancel()])
        for writer in self._writers.values():
            writer.close()

    def _write(self, batch: list[_Entry]) -> None:
        added: list[_Entry] = []
        lines: dict[Kind, list[bytes]] = {kind: [] for kind in _KINDS}
        found: list[Status] = []
        try:
            for entry in batch:
                if not self._index.knows(entry.kind, entry.record):
                    added.append(entry)
                status = self._index.add(entry.kind, entry.record)
                if status != "duplicate":
                    lines[entry.kind].append(entry.line)
                found.append(status)
            for kind in _KINDS:  # decisions first: no outcome is durable before its decision
                if lines[kind]:
                    self._writers[kind].append(b"".join(lines[kind]))
        except Exception as error:
            for entry in added:
                self._index.remove(entry.kind, entry.record)
            for entry in batch:
                entry.done.set_exception(SpoolUnavailable(f"{self.folder}: {error}"))
            return
        for entry, status in zip(batch, found, strict=True):
            self.counts[entry.kind, status] += 1
            entry.done.set_result(status)
