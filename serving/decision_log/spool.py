"""The durable spool: many requests append, one thread at a time writes, and one sync makes a whole batch durable.

While the disk works on one batch, the records that arrive form the next, so the number of syncs follows the speed of
the disk and not the traffic. A thread that may wait for the disk writes itself (`write`), with all that waits by then;
for the others one thread does (`submit`, `submit_later`). The folder does not outgrow its quota: a record that would
exceed it is refused. Of a decision that can't be logged, the log is owed the record that withdraws it, which waits in
memory: without it, the verdict would not know that users got the default action.
"""

import errno
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mtorl.log.records import KINDS, VERSION, Kind
from mtorl.runtime.files import replacing
from mtorl.runtime.locks import acquire
from mtorl.runtime.message import Message
from serving import messages
from serving.decision_log import segments
from serving.decision_log.segments import Position

_LARGEST_BATCH = 512  # appends
_LARGEST_QUEUE = 20_000  # appends that wait for a disk that hangs; more are refused
_MOST_OWED = 20_000  # records, some 25 MB
_MOST_LATER = 2_000  # appends of up to 64 windows of 1.8 kB; more are dropped
_LATER_SECONDS = 1.0  # until records for which no caller waits are written, and a disk at fault is tried again
_LITTLE_ROOM = 0.2  # of the quota: the alert MtorlSpoolNearlyFull is about the same
KEPT_FREE = 128 * 1024  # bytes of the disk: positions must fit, or what is shipped could not be deleted
MAX_BYTES = 10 * 1024**3


class SpoolError(RuntimeError):
    """The folder can't be used."""


class SpoolUnavailable(RuntimeError):
    """The record is not durable: send it again, or do without."""


@dataclass(eq=False)
class _Entry:
    kind: Kind
    lines: Sequence[bytes]
    owed: bool = False  # to be written later, if not now
    done: Future[None] = field(default_factory=Future)


class Spool:
    """A folder of decision and outcome records, made if it does not exist. One process at a time may hold it.

    SpoolError: the folder can't be written to, or another process holds it.

    Args:
        segment_bytes: Size at which a file is followed by the next.
        max_bytes: Size that the folder does not outgrow.

    Attributes:
        identity: A name that no other spool has; it is made with the folder and stays.
    """

    def __init__(
        self, folder: str | Path, segment_bytes: int = segments.SEGMENT_BYTES, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.fault: Exception | None = None  # why the last records could not be written; None if they were
        self.lost = 0  # records that were owed to the log, and had no room in memory
        self._owed: deque[_Entry] = deque()  # oldest first; of the thread that writes
        self._waiting: deque[_Entry] = deque()
        self._later: deque[_Entry] = deque()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._writers = {kind: segments.SegmentWriter(self.folder, kind, segment_bytes) for kind in KINDS}
        self._closed = self._ended = False  # takes no more records; writes no more than what waits
        self._lock = -1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = acquire(self.folder / ".lock")
            self._recover()
        except BlockingIOError as error:
            raise SpoolError(f"{self.folder}: another process writes to this folder") from error
        except (OSError, SpoolError) as error:
            if self._lock >= 0:
                os.close(self._lock)
            raise SpoolError(f"{self.folder}: {error}") from error
        # Bytes of the folder: those at the start, those written since (under `_writing`), those deleted by one thread.
        self._at_start = sum(entry.stat().st_size for entry in os.scandir(self.folder))
        self._written = self._deleted = 0
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def _recover(self) -> None:
        for unfinished in self.folder.glob(".*.????????"):  # a crash left them while a file was being replaced
            unfinished.unlink()
        if not (path := self.folder / segments.IDENTITY).exists():
            with replacing(path, durable=True) as new:
                new.write_text(uuid.uuid4().hex[:8])
        self.identity = path.read_text().strip()
        for kind in KINDS:
            self._writers[kind].find_end()
            for path in segments.segments(self.folder, kind)[-1:]:
                if (version := next(segments.read_file(path), {}).get("schema_version", VERSION)) != VERSION:
                    found = f"a {kind} record of schema version {version}"
                    raise SpoolError(f"{found}; this release reads {VERSION}: move the folder away")

    def submit(self, kind: Kind, *records: Mapping[str, Any], owed: bool = False) -> Future[None]:
        """Write records, all or none of them; the future is done when they are durable, else fails: SpoolUnavailable.

        Cancelling it takes the records back unless they are being written at that moment. Records that are owed, for
        which no caller waits, are written as soon as the disk takes records again, if the first attempt fails.
        """
        done = self._enqueue(_Entry(kind, _lines(records), owed))
        self._wake.set()
        return done

    def submit_later(self, kind: Kind, *records: Mapping[str, Any]) -> None:
        """Write records that may be lost with the router or its disk, many a second later with one sync."""
        if not self._closed and len(self._later) < _MOST_LATER:
            self._later.append(_Entry(kind, _lines(records)))

    def write(self, kind: Kind, records: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """`submit` for a thread that waits: it writes itself, or waits so many seconds for the one that is writing.

        TimeoutError: the records are taken back, unless they are being written at that moment.
        """
        done = self._enqueue(_Entry(kind, _lines(records)))
        if done.done():  # refused, or another thread was fast
            return done.result()
        if not self._writing.acquire(timeout=max(seconds, 0)):
            done.cancel()
            raise TimeoutError(f"{self.folder}: the disk took longer than {seconds:g} s")
        try:
            while self._waiting and not done.done():
                self._write_some(self._waiting)
        finally:
            self._writing.release()
        return done.result(0)

    def _enqueue(self, entry: _Entry) -> Future[None]:
        refused = "closed" if self._closed else ""
        if len(self._waiting) >= _LARGEST_QUEUE:
            refused = f"{_LARGEST_QUEUE} appends wait for the disk"
        if not refused:
            self._waiting.append(entry)
            if not (self._ended and entry.done.cancel()):
                return entry.done
            refused = "closed"  # too late for the last batch
        self.lost += entry.owed
        failed: Future[None] = Future()
        failed.set_exception(SpoolUnavailable(f"{self.folder}: {refused}"))
        return failed

    @property
    def alive(self) -> bool:
        """Whether the writing thread runs."""
        return self._thread.is_alive()

    def read(self, kind: Kind) -> Iterator[dict[str, Any]]:
        """All durable records of a kind, oldest first."""
        return segments.read(self.folder, kind)

    def newest(self, kind: Kind, count: int) -> Iterator[dict[str, Any]]:
        """The last durable records of a kind, oldest first."""
        return segments.newest(self.folder, kind, count)

    def never_pruned(self, kind: Kind) -> bool:
        """Whether all records that there ever were are still here; False if a file was removed by hand."""
        here = [segments.number(path) for path in segments.segments(self.folder, kind)]
        uploaded = (self.folder / segments.UPLOADED).exists()
        whole = not uploaded or segments.positions(self.folder, segments.UPLOADED)[kind] != segments.OLDEST
        return whole and here == list(range(1, len(here) + 1))

    def written_since(self, kind: Kind, at: float) -> Iterator[dict[str, Any]]:
        """The records of the segments that were written to since a time (seconds since 1970)."""
        for path in segments.segments(self.folder, kind):
            if path.stat().st_mtime >= at:
                yield from segments.read_file(path)

    @property
    def size(self) -> int:
        """Bytes that the folder holds."""
        return self._at_start + self._written - self._deleted

    def room(self) -> int:
        """Bytes that the log may still grow by: those left of the quota, or of the disk if that is less."""
        disk = os.statvfs(self.folder)
        return max(0, min(self.max_bytes - self.size, disk.f_bavail * disk.f_frsize - KEPT_FREE))

    def problems(self, room: int) -> list[Message]:
        """Problems of the log, given the room that is left."""
        if self.fault is not None:
            return [messages.LOG_NOT_WRITTEN(error=str(self.fault))]
        return [messages.LOG_NEARLY_FULL(megabytes=room / 1e6)] if room < _LITTLE_ROOM * self.max_bytes else []

    def end(self, kind: Kind) -> Position:
        """The position behind the last durable record of a kind."""
        return self._writers[kind].end

    def set_aside(self, kind: Kind, line: bytes) -> None:
        """Add to the records that a sink refuses."""
        with (self.folder / f"poison-{kind}.jsonl").open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        with self._writing:
            self._written += len(line)

    def prune(self, shipped: Sequence[Mapping[Kind, Position]], before: float) -> None:
        """Delete segments that are shipped and were last written before a time (seconds since 1970); for one thread.

        Args:
            shipped: For each sink, where its next record of each kind begins; a kind that it does not take is missing.
        """
        for kind in KINDS:
            at = min((each[kind] for each in shipped if kind in each), default=segments.OLDEST)
            for path in segments.segments(self.folder, kind):
                # The segment of the position stays, so that numbers are never used twice.
                if segments.number(path) < at.segment and (status := path.stat()).st_mtime < before:
                    path.unlink()
                    self._deleted += status.st_size

    def close(self) -> None:
        """Write what waits, and let go of the folder."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        self._thread.join()
        os.close(self._lock)

    def _run(self) -> None:
        late = time.monotonic()
        while not self._closed:
            asked = self._wake.wait(_LATER_SECONDS)
            self._wake.clear()
            with self._writing:
                self._write_some(self._waiting)
                if self._owed and (self.fault is None or not asked):
                    self._write_some(self._owed)
            if time.monotonic() - late >= _LATER_SECONDS:
                late = time.monotonic()
                for _ in range(len(self._later) // _LARGEST_BATCH + 1):
                    with self._writing:  # decisions get their turn between two batches
                        self._write_some(self._later)
            if self._waiting or (self._owed and self.fault is None):
                self._wake.set()
        with self._writing:
            self._ended = True
            for queue in (self._waiting, self._later):
                while queue:
                    self._write_some(queue)
            while self._owed:
                self._write_some(self._owed)
                if self.fault is not None:
                    break
            for writer in self._writers.values():
                writer.close()

    def _write_some(self, queue: deque[_Entry]) -> None:
        """Write what is in a queue, as far as it fits into one batch."""
        entries = [queue.popleft() for _ in range(min(len(queue), _LARGEST_BATCH))]
        # A future that was cancelled meanwhile drops out here; one that is running can't be cancelled any more.
        self._write([entry for entry in entries if entry.done.set_running_or_notify_cancel()])

    def _write(self, batch: list[_Entry]) -> None:
        error: BaseException | None = None
        for kind in KINDS:  # decisions first: no outcome is durable before its decision
            if entries := [entry for entry in batch if entry.kind == kind]:
                error = error or self._write_kind(kind, entries)
                if error is not None:
                    self._refuse(entries, error)
        if error is not None and not isinstance(error, Exception):
            raise error  # Ctrl-C, in the thread of a caller
        if batch:
            self.fault = error

    def _write_kind(self, kind: Kind, entries: list[_Entry]) -> BaseException | None:
        """Write records of one kind, together or not at all; returns the error if they are not written."""
        lines = [line for entry in entries for line in entry.lines]
        wanted = sum(map(len, lines))
        try:
            if self.size + wanted > self.max_bytes:
                raise OSError(errno.EDQUOT, f"the log may not grow beyond {self.max_bytes} bytes")
            if wanted > self.room():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._writers[kind].append(b"".join(lines))
        except BaseException as error:
            return error
        self._written += wanted
        for entry in entries:
            entry.done.set_result(None)
        return None

    def _refuse(self, entries: list[_Entry], error: BaseException) -> None:
        for entry in entries:
            if entry.owed and len(self._owed) < _MOST_OWED:
                self._owed.append(_Entry(entry.kind, entry.lines, owed=True))
            else:
                self.lost += entry.owed
            entry.done.set_exception(SpoolUnavailable(f"{self.folder}: {error}"))


def _lines(records: Sequence[Mapping[str, Any]]) -> list[bytes]:
    return [orjson.dumps(record) + b"\n" for record in records]
