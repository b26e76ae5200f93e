"""What a folder of causal steps holds, and proof that it still does.

    manifest = Manifest.read("windows")        # counts, shards, checksums
    verify("windows")                          # reads every byte again; an error names the file that has changed

The folder: manifest.json, dataset.yaml, steps/part-00000.parquet ... A shard has whole users, by a hash of the user's
id, and is sorted by user and time.

`sha256` of a shard is of the file. `content_sha256` is of the rows: DuckDB and Spark write other bytes for equal rows,
and equal digests of the content prove that the rows are equal, in their order, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtorl.runtime import progress
from mtorl.runtime.files import replacing
from mtorl.window.table import SCHEMA_VERSION

FILE = "manifest.json"
STEPS = "steps"
NOT_IN_ROWS = ("late_rows", "dropped_duplicates", "moved_ties", "capped_users", "dropped_by_cap")  # counts
_KEYS = ["user_id", "timestamp"]
_BATCH = 128 * 1024  # rows


class ManifestError(Exception):
    """The folder is not what its manifest says; the message names the file and the way out."""


@dataclass(frozen=True)
class Shard:
    """One file of steps."""

    file: str  # path inside the folder
    rows: int
    users: int
    sha256: str  # of the file


@dataclass(frozen=True)
class Manifest:
    """Counts and checksums of a folder of causal steps."""

    dataset: str
    engine: str
    columns: dict[str, str]  # name -> Arrow type, in order
    rows: int
    users: int
    journeys: int
    session_breaks: int  # pauses that ended a journey: journeys - users
    one_touchpoint_users: int
    late_rows: int  # known only after a younger touchpoint of the same user was
    dropped_duplicates: int
    moved_ties: int  # touchpoints that got another time, because the user had one at that time already
    capped_users: int  # had more than max_touchpoints
    dropped_by_cap: int  # touchpoints of theirs
    shards: tuple[Shard, ...]
    content_sha256: str
    log_fingerprint: (
        str  # by what the log is known: its `mtorl.log.touchpoints.fingerprint`, or the content digest of its steps
    )
    schema_version: int = SCHEMA_VERSION

    def write(self, folder: Path | str) -> None:
        """Write manifest.json."""
        text = json.dumps({"schema_version": self.schema_version, **asdict(self)}, indent=2)
        (Path(folder) / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path | str) -> Manifest:
        """Read manifest.json.

        Raises:
            ManifestError: there is none, or it is of another version.
        """
        path = Path(folder) / FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.get("schema_version") != SCHEMA_VERSION:
                raise ValueError(f"schema_version is {data.get('schema_version')!r}, expected {SCHEMA_VERSION}")
            data["shards"] = tuple(Shard(**shard) for shard in data["shards"])
            return cls(**{field.name: data[field.name] for field in fields(cls)})
        except FileNotFoundError:
            raise ManifestError(f"{path}: no such file; `mtorl data build` writes a folder of windows") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestError(f"{path}: not a manifest of windows ({error}); run `mtorl data build` again") from error


@dataclass(frozen=True)
class Survey:
    """One shard, read once from end to end."""

    shard: Shard
    columns: dict[str, str]
    journeys: int
    one_touchpoint_users: int
    longest_user: int  # touchpoints
    in_order: bool  # strictly by user and time
    content: str  # digest of the rows


def survey(path: Path, file: str) -> Survey:
    """Read a shard of steps: counts, digests, and whether its rows are in order.

    Args:
        path: The Parquet file.
        file: Its name in the manifest.
    """
    with pq.ParquetFile(path) as parquet, ThreadPoolExecutor() as pool:
        arrow = parquet.schema_arrow
        content = _Content(arrow)
        counter = _Counter()
        at_work: list[Future[None]] = []
        for batch in parquet.iter_batches(_BATCH):
            _finish(at_work)  # a column's batches must come one after the other; meanwhile the next one was read
            updates: list[Callable[[], None]] = [*content.updates(batch), partial(counter.update, batch)]
            at_work = [pool.submit(update) for update in updates]
        _finish(at_work)
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    lengths = counter.lengths()
    return Survey(
        Shard(file, counter.rows, len(lengths), sha256),
        {field.name: str(field.type) for field in arrow},
        counter.journeys,
        int((lengths == 1).sum()),
        int(lengths.max(initial=0)),
        counter.in_order,
        content.hexdigest(),
    )


def _finish(at_work: Iterable[Future[None]]) -> None:
    for each in at_work:
        each.result()


def of(surveys: Sequence[Survey], dataset: str, engine: str, log_fingerprint: str, **cleaned: int) -> Manifest:
    """The manifest of surveyed shards.

    Args:
        surveys: In the order of the shards, at least one.
        dataset: Name of the data set.
        engine: Name of the engine that wrote them.
        log_fingerprint: Of the log; empty for one that nobody has read: it is known by what was made of it.
        **cleaned: The counts `NOT_IN_ROWS`.
    """
    content = _content_sha256(surveys)
    users, journeys = sum(found.shard.users for found in surveys), sum(found.journeys for found in surveys)
    return Manifest(
        dataset=dataset,
        engine=engine,
        columns=surveys[0].columns,
        rows=sum(found.shard.rows for found in surveys),
        users=users,
        journeys=journeys,
        session_breaks=journeys - users,
        one_touchpoint_users=sum(found.one_touchpoint_users for found in surveys),
        shards=tuple(found.shard for found in surveys),
        content_sha256=content,
        log_fingerprint=log_fingerprint or content,
        **cleaned,
    )


def _content_sha256(surveys: Iterable[Survey]) -> str:
    return hashlib.sha256("\n".join(found.content for found in surveys).encode()).hexdigest()


def verify(folder: Path | str) -> Manifest:
    """Compare a folder with its manifest: every file is there, is whole and has the rows it had; no other is.

    Raises:
        ManifestError: names the first file that is not as it was.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    again = "run `mtorl data build` again"
    known = {shard.file for shard in manifest.shards}
    for path in sorted((folder / STEPS).glob("*.parquet")):
        if path.relative_to(folder).as_posix() not in known:
            raise ManifestError(f"{path}: not in {FILE}; {again}")
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.is_file():
            raise ManifestError(f"{path}: missing, {FILE} lists it; {again}")
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != shard.sha256:
            raise ManifestError(f"{path}: its sha256 is {found}, {FILE} says {shard.sha256}; {again}")
    content = _content_sha256(survey(folder / shard.file, shard.file) for shard in manifest.shards)
    if content != manifest.content_sha256:
        raise ManifestError(f"{folder / FILE}: content_sha256 is not that of the shards; {again}")
    return manifest


def rewrite_shards(folder: Path | str, change: Callable[[pa.Table], pa.Table]) -> int:
    """Replace every shard by what a function makes of it, and the folder in one step once all are done.

    Args:
        folder: With a manifest; what else is in it stays.
        change: Gets the rows of a shard and returns the same rows, in order, with other columns.

    Returns:
        Number of rows.

    Raises:
        ManifestError: the folder has no manifest.
        ValueError: the function returned other rows.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    with replacing(folder) as temporary:
        shutil.copytree(folder, temporary, ignore=shutil.ignore_patterns(STEPS))
        (temporary / STEPS).mkdir()
        surveys = []
        for number, shard in enumerate(manifest.shards):
            before = pq.read_table(folder / shard.file)
            after = change(before)
            if not after.select(_KEYS).equals(before.select(_KEYS)):
                raise ValueError(f"{shard.file}: the rows, or their order, have changed")
            pq.write_table(after, temporary / shard.file, compression="zstd", row_group_size=_BATCH)
            surveys.append(survey(temporary / shard.file, shard.file))
            progress.report(number + 1, len(manifest.shards), f"shard {number + 1} of {len(manifest.shards)}")
        kept = {name: getattr(manifest, name) for name in NOT_IN_ROWS}
        of(surveys, manifest.dataset, manifest.engine, manifest.log_fingerprint, **kept).write(temporary)
    return manifest.rows


class _Content:
    """Digest of rows that depends on neither batches, encodings nor what null slots hold."""

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = [(f"{field.name}:{field.type}", _Column()) for field in schema]

    def updates(self, batch: pa.RecordBatch) -> Iterator[Callable[[], None]]:
        """What to do for a batch: one call a column, in any order or at the same time."""
        for (_, column), values in zip(self._columns, batch.columns, strict=True):
            yield partial(column.update, values)

    def hexdigest(self) -> str:
        text = "\n".join(f"{name}:{column.hexdigest()}" for name, column in self._columns)
        return hashlib.sha256(text.encode()).hexdigest()


class _Column:
    """Digests of a column's values, of the lengths of its texts or lists, and of the places of its nulls."""

    def __init__(self) -> None:
        self._values, self._lengths, self._nulls = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self._items: _Column | None = None  # of a column of lists
        self._rows = 0

    def update(self, array: pa.Array) -> None:
        if array.null_count:
            self._nulls.update((np.flatnonzero(array.is_null().to_numpy(False)) + self._rows).astype("<i8").tobytes())
        self._rows += len(array)
        if pa.types.is_list(array.type):
            self._items = self._items or _Column()
            self._items.update(array.flatten())
            self._lengths.update(pc.list_value_length(array).fill_null(0).to_numpy().astype("<i4").tobytes())
        elif pa.types.is_string(array.type):
            # One array's texts, joined: a slice of its data if no null hides bytes there.
            array = array.fill_null("") if array.null_count else array
            offsets = np.frombuffer(array.buffers()[1] or b"", "<i4")[array.offset : array.offset + len(array) + 1]
            if len(array) and (data := array.buffers()[2]):
                self._values.update(memoryview(data)[offsets[0] : offsets[-1]])
            self._lengths.update(pc.binary_length(array).fill_null(0).to_numpy().astype("<i4").tobytes())
        else:
            filled = array.fill_null(pa.scalar(0, pa.int64()).cast(array.type)) if array.null_count else array
            self._values.update(np.ascontiguousarray(filled.to_numpy(False)).view("u1").data)

    def hexdigest(self) -> str:
        items = self._items.hexdigest() if self._items else ""
        return f"{self._values.hexdigest()}:{self._lengths.hexdigest()}:{self._nulls.hexdigest()}:{items}"


class _Counter:
    """Touchpoints of each user, journeys, and the order of rows, over batches."""

    def __init__(self) -> None:
        self.rows = self.journeys = 0
        self.in_order = True
        self._starts: list[np.ndarray[Any, Any]] = []  # rows at which a user begins
        self._last: pa.RecordBatch | None = None  # the row before this batch

    def update(self, batch: pa.RecordBatch) -> None:
        keys = batch.select(_KEYS)
        joined = keys if self._last is None else pa.concat_batches([self._last, keys])
        user, time = joined["user_id"], joined["timestamp"].cast(pa.int64())
        same = pc.equal(user[1:], user[:-1])
        order = pc.if_else(same, pc.greater(time[1:], time[:-1]), pc.greater(user[1:], user[:-1]))
        self.in_order &= not keys["user_id"].null_count and not keys["timestamp"].null_count
        self.in_order &= pc.all(order, min_count=0).as_py() is True
        begins = np.flatnonzero(~same.to_numpy(False))
        self._starts.append(begins + self.rows if self._last is not None else np.append(0, begins + 1))
        self.journeys += pc.sum(pc.equal(batch["step"], 0), min_count=0).as_py()
        self.rows += len(batch)
        self._last = keys.slice(len(keys) - 1)

    def lengths(self) -> np.ndarray[Any, Any]:
        """Touchpoints of each user; shape [users]."""
        starts = np.concatenate([*self._starts, [self.rows]]).astype("i8") if self.rows else np.zeros(1, "i8")
        return np.diff(starts)
