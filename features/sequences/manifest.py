"""Counts and checksums of a windows folder, stored in its manifest.json.

`sha256` is the digest of a shard's file. `content_sha256` is the digest of all rows, which is equal for DuckDB and
Spark although their files differ.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import messages
from mtorl.log.touchpoints import ColumnDigest, LogError
from mtorl.runtime import progress
from mtorl.runtime.files import replacing
from mtorl.window.table import SCHEMA_VERSION

FILE = "manifest.json"
STEPS = "steps"
NOT_IN_ROWS = ("late_rows", "dropped_duplicates", "moved_ties", "capped_users", "dropped_by_cap")
_KEYS = ["user_id", "timestamp"]
_BATCH = 128 * 1024  # rows


class ManifestError(LogError):
    """Raised if the manifest of a folder is missing or can't be read."""


@dataclass(frozen=True)
class Shard:
    """One Parquet file of steps, with its counts and its digest."""

    file: str  # path inside the folder
    rows: int
    users: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Counts and checksums of the steps in a windows folder.

    Attributes:
        late_rows: Number of touchpoints that arrived after a later touchpoint of the same user.
        moved_ties: Number of touchpoints whose time was changed because their user had another one at this time.
        log_fingerprint: Fingerprint of the log (`mtorl.log.touchpoints.fingerprint`), or `content_sha256` if unknown.
    """

    dataset: str
    engine: str
    columns: dict[str, str]
    rows: int
    users: int
    journeys: int
    session_breaks: int
    one_touchpoint_users: int
    late_rows: int
    dropped_duplicates: int
    moved_ties: int
    capped_users: int
    dropped_by_cap: int
    shards: tuple[Shard, ...]
    content_sha256: str
    log_fingerprint: str
    schema_version: int = SCHEMA_VERSION

    def write(self, folder: Path | str) -> None:
        """Write manifest.json."""
        text = json.dumps({"schema_version": self.schema_version, **asdict(self)}, indent=2)
        (Path(folder) / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path | str) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            ManifestError: The manifest is missing, invalid or of another version.
        """
        path = Path(folder) / FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.get("schema_version") != SCHEMA_VERSION:
                raise ValueError(f"schema_version is {data.get('schema_version')!r}, expected {SCHEMA_VERSION}")
            data["shards"] = tuple(Shard(**shard) for shard in data["shards"])
            return cls(**{field.name: data[field.name] for field in fields(cls)})
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestError(messages.NOT_WINDOWS(file=path, reason=getattr(error, "strerror", error))) from error


@dataclass(frozen=True)
class Survey:
    """Counts and digests of one shard, computed by reading the shard once.

    Attributes:
        longest_user: Largest number of touchpoints of one user.
    """

    shard: Shard
    columns: dict[str, str]
    journeys: int
    one_touchpoint_users: int
    longest_user: int
    in_order: bool
    content: str


def survey(path: Path, file: str) -> Survey:
    """Read a shard, and compute its counts and digests and whether its rows are in order."""
    with pq.ParquetFile(path) as parquet, ThreadPoolExecutor() as pool:
        rows = parquet.read()
        digests = pool.map(_digest, rows.columns)
        content = "\n".join(f"{of.name}:{of.type}:{digest}" for of, digest in zip(rows.schema, digests, strict=True))
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    user, time = (rows[name].combine_chunks() for name in _KEYS)
    same = pc.equal(user[1:], user[:-1])
    order = pc.if_else(same, pc.greater(time[1:], time[:-1]), pc.greater(user[1:], user[:-1]))
    begins = np.flatnonzero(~same.fill_null(False).to_numpy(False)) + 1
    lengths = np.diff([0, *begins, len(rows)]) if len(rows) else np.zeros(0, int)  # touchpoints of each user
    return Survey(
        Shard(file, len(rows), len(lengths), sha256),
        {field.name: str(field.type) for field in rows.schema},
        pc.sum(pc.equal(rows["step"], 0), min_count=0).as_py(),
        int((lengths == 1).sum()),
        int(lengths.max(initial=0)),
        not user.null_count and not time.null_count and pc.all(order, min_count=0).as_py() is True,
        hashlib.sha256(content.encode()).hexdigest(),
    )


def _digest(column: pa.ChunkedArray) -> str:
    digest = ColumnDigest()
    for chunk in column.chunks:
        digest.update(chunk)
    return digest.hexdigest()


def manifest_of(surveys: Sequence[Survey], dataset: str, engine: str, log_fingerprint: str, **cleaned: int) -> Manifest:
    """Create the manifest from the surveys of all shards. `cleaned` has the counts in `NOT_IN_ROWS`."""
    content = hashlib.sha256("\n".join(each.content for each in surveys).encode()).hexdigest()
    users, journeys = sum(each.shard.users for each in surveys), sum(each.journeys for each in surveys)
    return Manifest(
        dataset=dataset,
        engine=engine,
        columns=surveys[0].columns,
        rows=sum(each.shard.rows for each in surveys),
        users=users,
        journeys=journeys,
        session_breaks=journeys - users,
        one_touchpoint_users=sum(each.one_touchpoint_users for each in surveys),
        shards=tuple(each.shard for each in surveys),
        content_sha256=content,
        log_fingerprint=log_fingerprint or content,
        **cleaned,
    )


def rewrite_shards(folder: Path | str, change: Callable[[pa.Table], pa.Table]) -> int:
    """Apply `change` to all shards of a windows folder, or to none if an error occurs. Returns the number of rows.

    Args:
        change: Returns the new rows of a shard. It may change columns, but must keep the rows and their order.
    """

    def same_rows(before: pa.Table) -> pa.Table:
        after = change(before)
        if not after.select(_KEYS).equals(before.select(_KEYS)):
            raise ValueError("the change must keep all rows and their order")
        return after

    manifest = Manifest.read(folder)
    return _replace_shards(Path(folder), manifest, same_rows, manifest.log_fingerprint).rows


def remove_users(folder: Path | str, users: Collection[str]) -> int:
    """Remove users from all shards of a windows folder at once. Returns the number of removed rows."""
    folder, wanted = Path(folder), pa.array(sorted(users), pa.string())
    manifest = Manifest.read(folder)
    shards = (pq.read_table(folder / shard.file, columns=["user_id"]) for shard in manifest.shards)
    if not any(pc.any(pc.is_in(shard["user_id"], wanted), min_count=0).as_py() for shard in shards):
        return 0

    def without(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.invert(pc.is_in(rows["user_id"], wanted)))

    # The log with this fingerprint contains the removed rows.
    return manifest.rows - _replace_shards(folder, manifest, without, log_fingerprint="").rows


def _replace_shards(
    folder: Path, manifest: Manifest, change: Callable[[pa.Table], pa.Table], log_fingerprint: str
) -> Manifest:
    with replacing(folder) as temporary:
        shutil.copytree(folder, temporary, ignore=shutil.ignore_patterns(STEPS))
        (temporary / STEPS).mkdir()
        surveys, shards = [], len(manifest.shards)
        for number, shard in enumerate(manifest.shards):
            progress.report(number, shards, f"{shard.rows:,} rows of shard {number + 1} of {shards}")
            rows = change(pq.read_table(folder / shard.file))
            pq.write_table(rows, temporary / shard.file, compression="zstd", row_group_size=_BATCH)
            surveys.append(survey(temporary / shard.file, shard.file))
        kept = {name: getattr(manifest, name) for name in NOT_IN_ROWS}
        written = manifest_of(surveys, manifest.dataset, manifest.engine, log_fingerprint, **kept)
        written.write(temporary)
    return written
