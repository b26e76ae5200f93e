"""The durable spool: many requests append records, one thread at a time writes, and one sync makes a batch durable.

The records that arrive while the disk writes a batch form the next one, so the number of syncs depends on the speed of
the disk, not on the traffic. A thread that may block writes its own records and all that wait (`write`). Other callers
leave the writing to the spool's thread (`submit`, `submit_later`). Records that would exceed the quota are refused. If
a decision can't be logged in time, its user gets the default action, and a record that withdraws the decision is
*owed*: it waits in memory until the disk works again, because verdicts must count the default action.
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
_LARGEST_QUEUE = 20_000  # most appends that wait while the disk hangs; further appends are refused
_MOST_OWED = 20_000  # most records that wait in memory, about 25 MB
_MOST_LATER = 2_000  # appends that wait, each of up to 64 windows of 1.8 kB; further ones are dropped
_LATER_SECONDS = 1.0  # interval of writes for which no caller waits, and of retries after a fault of the disk
_LITTLE_ROOM = 0.2  # share of the quota that counts as nearly full, as in the alert MtorlSpoolNearlyFull
KEPT_FREE = 128 * 1024  # bytes of the disk that are kept for positions, without which nothing could be deleted
MAX_BYTES = 10 * 1024**3


class SpoolError(RuntimeError):
    """The folder can't be used."""


class SpoolUnavailable(RuntimeError):
    """The record was not made durable. Send it again, or do without it."""


@dataclass(eq=False)
class _Entry:
    kind: Kind
    lines: Sequence[bytes]
    owed: bool = False  # after a failure, keep and retry it
    done: Future[None] = field(default_factory=Future)


class Spool:
    """A folder of records, created if it does not exist, and locked for one process.

    Raises SpoolError if the folder can't be written to, or another process has locked it.

    Args:
        segment_bytes: Size in bytes after which a new segment begins.
        max_bytes: Quota of the folder in bytes.

    Attributes:
        identity: Unique name of the spool, which is stored in the folder.
    """

    def __init__(
        self, folder: str | Path, segment_bytes: int = segments.SEGMENT_BYTES, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.fault: Exception | None = None  # the error of the last write; None if it succeeded
        self.lost = 0  # owed records that did not fit in memory
        self._owed: deque[_Entry] = deque()  # oldest first; only the thread that writes uses it
        self._waiting: deque[_Entry] = deque()
        self._later: deque[_Entry] = deque()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._writers = {kind: segments.SegmentWriter(self.folder, kind, segment_bytes) for kind in KINDS}
        self._closed = self._ended = False  # no more records are accepted; the last batch is being written
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
        # Bytes in the folder: at the start, written since then (under `_writing`), and deleted (by one thread).
        self._at_start = sum(entry.stat().st_size for entry in os.scandir(self.folder))
        self._written = self._deleted = 0
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def _recover(self) -> None:
        for unfinished in self.folder.glob(".*.????????"):  # from a crash during the replacement of a file
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
        """Write records atomically. The future is done once they are durable, or has the error SpoolUnavailable.

        Cancelling the future withdraws the records unless they are being written at that moment. If a write of `owed`
        records fails, it is retried until the disk works again.
        """
        done = self._enqueue(_Entry(kind, _lines(records), owed))
        self._wake.set()
        return done

    def submit_later(self, kind: Kind, *records: Mapping[str, Any]) -> None:
        """Write records within about a second, many with one sync. They are lost if the process or a write fails."""
        if not self._closed and len(self._later) < _MOST_LATER:
            self._later.append(_Entry(kind, _lines(records)))

    def write(self, kind: Kind, records: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """`submit` for a thread that may block: waits up to `seconds` for another thread's write, then writes itself.

        After a TimeoutError, the records are withdrawn unless they were being written at that moment.
        """
        done = self._enqueue(_Entry(kind, _lines(records)))
        if done.done():  # the records were refused, or another thread has written them
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
            refused = "closed"  # the last batch was already taken
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
        """Whether the folder has every record ever written; False if a segment was deleted, even by a person."""
        here = [segments.number(path) for path in segments.segments(self.folder, kind)]
        uploaded = (self.folder / segments.UPLOADED).exists()
        whole = not uploaded or segments.positions(self.folder, segments.UPLOADED)[kind] != segments.OLDEST
        return whole and here == list(range(1, len(here) + 1))

    def written_since(self, kind: Kind, at: float) -> Iterator[dict[str, Any]]:
        """All records of segments whose last write was at or after a time, seconds since 1970."""
        for path in segments.segments(self.folder, kind):
            if path.stat().st_mtime >= at:
                yield from segments.read_file(path)

    @property
    def size(self) -> int:
        """Bytes in the folder."""
        return self._at_start + self._written - self._deleted

    def room(self) -> int:
        """Bytes by which the log may still grow, within the quota and the free space of the disk."""
        disk = os.statvfs(self.folder)
        return max(0, min(self.max_bytes - self.size, disk.f_bavail * disk.f_frsize - KEPT_FREE))

    def problems(self, room: int) -> list[Message]:
        """Problems of the log, given the bytes that `room()` returns."""
        if self.fault is not None:
            return [messages.LOG_NOT_WRITTEN(error=str(self.fault))]
        return [messages.LOG_NEARLY_FULL(megabytes=room / 1e6)] if room < _LITTLE_ROOM * self.max_bytes else []

    def end(self, kind: Kind) -> Position:
        """The position after the last durable record of a kind."""
        return self._writers[kind].end

    def set_aside(self, kind: Kind, line: bytes) -> None:
        """Append a line to `poison-<kind>.jsonl`, the records that a sink has refused."""
        with (self.folder / f"poison-{kind}.jsonl").open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        with self._writing:
            self._written += len(line)

    def prune(self, shipped: Sequence[Mapping[Kind, Position]], before: float) -> None:
        """Delete segments that all sinks have and that were last written before a time, seconds since 1970.

        Args:
            shipped: For each sink, the position of the next record by kind; kinds that it does not accept are missing.
        """
        for kind in KINDS:
            at = min((each[kind] for each in shipped if kind in each), default=segments.OLDEST)
            for path in segments.segments(self.folder, kind):
                # Keep the segment that contains the position, so that no segment number is used twice.
                if segments.number(path) < at.segment and (status := path.stat()).st_mtime < before:
                    path.unlink()
                    self._deleted += status.st_size

    def close(self) -> None:
        """Write what waits, and unlock the folder."""
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
                    with self._writing:  # released after each batch, so that decisions are written in between
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
        entries = [queue.popleft() for _ in range(min(len(queue), _LARGEST_BATCH))]
        # Skip cancelled futures. The others are marked as running, and can't be cancelled any more.
        self._write([entry for entry in entries if entry.done.set_running_or_notify_cancel()])

    def _write(self, batch: list[_Entry]) -> None:
        error: BaseException | None = None
        for kind in KINDS:  # decisions come first: no outcome must be durable before its decision
            if entries := [entry for entry in batch if entry.kind == kind]:
                error = error or self._write_kind(kind, entries)
                if error is not None:
                    self._refuse(entries, error)
        if error is not None and not isinstance(error, Exception):
            raise error  # such as Ctrl-C in a caller's thread
        if batch:
            self.fault = error

    def _write_kind(self, kind: Kind, entries: list[_Entry]) -> BaseException | None:
        """Write records of one kind atomically; returns the error if they could not be written."""
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
