"""The durable spool: many requests append records, and one sync to disk makes a whole batch of them durable.

A record that is *owed* must reach the log, for example because it withdraws a decision. If the disk fails, an owed
record stays in memory until the disk works again.
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

_LARGEST_BATCH = 512  # most appends that share one sync
_LARGEST_QUEUE = 20_000  # if this many appends wait, further ones are refused
_MOST_OWED = 20_000  # most owed records in memory, about 25 MB
# Beyond this number of waiting calls, `submit_later` drops records.
_MOST_LATER = 2_000
_LATER_SECONDS = 1.0  # between two writes for `submit_later`, and between retries
# The log counts as nearly full below this share, as in the alert MtorlSpoolNearlyFull.
_LITTLE_ROOM = 0.2
# Needed for shipping positions: without them, no segment could be deleted.
KEPT_FREE = 128 * 1024
MAX_BYTES = 10 * 1024**3


class SpoolError(RuntimeError):
    """Raised if the spool's folder can't be used."""


class SpoolUnavailable(RuntimeError):
    """Raised if a record was not made durable. The caller may send it again."""


@dataclass(eq=False)
class _Entry:
    kind: Kind
    lines: Sequence[bytes]
    owed: bool = False  # after a failure, keep and retry it
    done: Future[None] = field(default_factory=Future)


class Spool:
    """Stores the records of the decision log in a folder, which it creates and locks.

    Raises SpoolError if the folder can't be written to, or is locked.

    Args:
        segment_bytes: Size in bytes after which a new file begins.
        max_bytes: Highest total size of the folder in bytes.

    Attributes:
        identity: Unique name of the spool, which is stored in the folder.
    """

    def __init__(
        self, folder: str | Path, segment_bytes: int = segments.SEGMENT_BYTES, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.fault: Exception | None = None  # error of the last write; None if it succeeded
        self.lost = 0  # number of owed records that were dropped
        # Records to retry, oldest first, for the thread that holds `_writing`.
        self._owed: deque[_Entry] = deque()
        self._waiting: deque[_Entry] = deque()
        self._later: deque[_Entry] = deque()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._writers = {kind: segments.SegmentWriter(self.folder, kind, segment_bytes) for kind in KINDS}
        # `_closed`: no further record is accepted. `_ended`: the last batch is being written.
        self._closed = self._ended = False
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
        # The folder's size is that at the start, plus `_written`, minus `_deleted`.
        self._at_start = sum(entry.stat().st_size for entry in os.scandir(self.folder))
        self._written = self._deleted = 0
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def _recover(self) -> None:
        for unfinished in self.folder.glob(".*.????????"):  # temporary files that a crash has left
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
        """Append records together; returns a future that is done once they are durable.

        If the write fails, the future raises SpoolUnavailable. Cancelling the future before the write prevents it.

        Args:
            owed: Whether a failed write is retried until the disk works again.
        """
        done = self._enqueue(_Entry(kind, _lines(records), owed))
        self._wake.set()
        return done

    def submit_later(self, kind: Kind, *records: Mapping[str, Any]) -> None:
        """Append records within about a second. They may be lost in a crash or if the write fails."""
        if not self._closed and len(self._later) < _MOST_LATER:
            self._later.append(_Entry(kind, _lines(records)))

    def write(self, kind: Kind, records: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Append records and wait until they are durable.

        Raises TimeoutError if another thread writes for longer than `seconds`. Waiting records are not written then.
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
            refused = "closed"  # the last batch is already being written
        self.lost += entry.owed
        failed: Future[None] = Future()
        failed.set_exception(SpoolUnavailable(f"{self.folder}: {refused}"))
        return failed

    @property
    def alive(self) -> bool:
        """Whether the writing thread runs."""
        return self._thread.is_alive()

    def read(self, kind: Kind) -> Iterator[dict[str, Any]]:
        """Yield all durable records of a kind, oldest first."""
        return segments.read(self.folder, kind)

    def newest(self, kind: Kind, count: int) -> Iterator[dict[str, Any]]:
        """Yield the last `count` durable records of a kind, oldest first."""
        return segments.newest(self.folder, kind, count)

    def never_pruned(self, kind: Kind) -> bool:
        """Whether the folder still has every record of a kind."""
        here = [segments.number(path) for path in segments.segments(self.folder, kind)]
        uploaded = (self.folder / segments.UPLOADED).exists()
        whole = not uploaded or segments.positions(self.folder, segments.UPLOADED)[kind] != segments.OLDEST
        return whole and here == list(range(1, len(here) + 1))

    def written_since(self, kind: Kind, at: float) -> Iterator[dict[str, Any]]:
        """Yield the records of segments last written at or after a time, in seconds since 1970."""
        for path in segments.segments(self.folder, kind):
            if path.stat().st_mtime >= at:
                yield from segments.read_file(path)

    @property
    def size(self) -> int:
        """Bytes in the folder."""
        return self._at_start + self._written - self._deleted

    def room(self) -> int:
        """Return the bytes by which the log may grow, given its quota and the disk."""
        disk = os.statvfs(self.folder)
        return max(0, min(self.max_bytes - self.size, disk.f_bavail * disk.f_frsize - KEPT_FREE))

    def problems(self, room: int) -> list[Message]:
        """Return the problems of the log, given the result of `room()`."""
        if self.fault is not None:
            return [messages.LOG_NOT_WRITTEN(error=str(self.fault))]
        return [messages.LOG_NEARLY_FULL(megabytes=room / 1e6)] if room < _LITTLE_ROOM * self.max_bytes else []

    def end(self, kind: Kind) -> Position:
        """Return the position after the last durable record of a kind."""
        return self._writers[kind].end

    def set_aside(self, kind: Kind, line: bytes) -> None:
        """Append a refused record to `poison-<kind>.jsonl`."""
        with (self.folder / f"poison-{kind}.jsonl").open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        with self._writing:
            self._written += len(line)

    def prune(self, shipped: Sequence[Mapping[Kind, Position]], before: float) -> None:
        """Delete old segments whose records have reached all sinks.

        Args:
            shipped: For each sink, the position of the next record to ship, by kind.
            before: Time in seconds since 1970; later segments stay.
        """
        for kind in KINDS:
            at = min((each[kind] for each in shipped if kind in each), default=segments.OLDEST)
            for path in segments.segments(self.folder, kind):
                # Keep the newest shipped segment, from which the numbers of new segments are counted.
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
                    with self._writing:  # unlock after each batch, so that decisions can be written
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
        # Skip cancelled records. The others can't be cancelled now.
        self._write([entry for entry in entries if entry.done.set_running_or_notify_cancel()])

    def _write(self, batch: list[_Entry]) -> None:
        error: BaseException | None = None
        for kind in KINDS:  # no outcome may be durable before its decision
            if entries := [entry for entry in batch if entry.kind == kind]:
                error = error or self._write_kind(kind, entries)
                if error is not None:
                    self._refuse(entries, error)
        if error is not None and not isinstance(error, Exception):
            raise error  # such as Ctrl-C in a caller's thread
        if batch:
            self.fault = error

    def _write_kind(self, kind: Kind, entries: list[_Entry]) -> BaseException | None:
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
