"""Exports the log as Parquet files for monitoring and analysis, also while the router writes it.

    export_parquet("spool", "decision_log")       # decision_log/{decisions,outcomes,shadows}.parquet
    export_segments("spool", "decision_log")      # a folder for each segment: only what has grown

Columns are those of `mtorl.log.records.sql_columns`: objects and lists are JSON text, `event_time` is a UTC timestamp.
Decisions of users who were forgotten in the target folder are left out (`mtorl.log.forgotten`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import get_args

import duckdb

from mtorl.log.forgotten import Forgotten
from mtorl.log.records import ID_FIELD, Kind, one_record_each, sql_columns, this_version
from mtorl.runtime.files import naming_full_disk, remove, replacing
from mtorl.runtime.progress import without_progress_bar
from serving.decision_log import exported
from serving.decision_log.segments import IDENTITY, segments

# A log of any size is exported beside a router: what does not fit is sorted on disk, in the folder for temporary files,
# since the current one may be read-only.
_LIMITS = {"memory_limit": "400MB", "threads": "2", "preserve_insertion_order": "false"}
_LONGEST_LINE = 1 << 20  # bytes; the reader keeps some buffers of that size
KEPT_SECONDS = 600.0
"""A superseded folder stays so long: a query of a large log takes minutes, and reads its files to the end."""

# An outcome is never there before its decision: a reader would take it for one of an unknown decision.
_KINDS: tuple[Kind, ...] = tuple(reversed(get_args(Kind)))


def export_parquet(log_dir: str | Path, out_dir: str | Path) -> dict[str, int]:
    """Write decisions.parquet, outcomes.parquet and shadows.parquet, each in one step; returns rows by kind.

    Without records the files hold the columns alone. Of a decision that was withdrawn, the withdrawal stays.

    Args:
        log_dir: Folder of a `Spool`, of which shipping leaves the newest `keep_hours`, or of a `ParquetSink`.
    """
    log, out = Path(log_dir), Path(out_dir)
    written: dict[str, int] = {}
    with _database() as (con, scratch):
        for kind in _KINDS:
            if parts := [str(path) for path in log.glob(f"{kind}s/date=*/hour=*/*.parquet")]:
                records = con.read_parquet(parts).filter(this_version(kind))
            else:
                *closed, newest = segments(log, kind) or [log / f"{kind}-none.jsonl"]
                records = _read(con, kind, [*closed, _whole_lines(newest, scratch)])
            written[kind] = _write(con, kind, records, out / f"{kind}s.parquet")
    return written


def export_segments(spool: str | Path, out_dir: str | Path, mark: str | Path | None = None) -> None:
    """Update a folder that has one for each segment, `IDENTITY/decision-00000001-SIZE/decisions.parquet`.

    Only new and grown segments are written. A superseded folder stays for `KEPT_SECONDS`, for readers at work. Segments
    that the spool no longer has are removed; exports of other spools, whose volume may be lost, stay. A decision and
    its withdrawal may lie in different segments, and a record in two folders: readers use `one_record_each`.

    Args:
        mark: File for how far the log is exported (`exported.py`).
    """
    began = time.time()
    identity = Path(spool) / IDENTITY
    if not identity.exists():
        return
    with _database() as (con, scratch):
        sizes = _export_folder(con, scratch, Path(spool), Path(out_dir) / identity.read_text().strip())
    if mark is not None and sizes:
        exported.note(Path(mark), began, {path.stem: size for path, size in sizes.items()})


def _export_folder(con: duckdb.DuckDBPyConnection, scratch: Path, spool: Path, out: Path) -> dict[Path, int]:
    """Update the folder of one spool; returns its segments with their bytes at that time."""
    sizes: dict[Path, int] = {}
    for kind in _KINDS:
        for segment in segments(spool, kind):
            try:
                size = sizes[segment] = segment.stat().st_size
            except FileNotFoundError:  # the router has deleted it since: it is old
                continue
            _remove_superseded(out, segment.stem, f"{kind}s.parquet")
            target = out / f"{segment.stem}-{size}" / f"{kind}s.parquet"
            if not target.exists():
                lines = _whole_lines(segment, scratch)
                _write(con, kind, _read(con, kind, [lines]), target)
                lines.unlink()
    for path in out.glob("*"):
        if not any(path.name.startswith(f"{segment.stem}-") for segment in sizes):
            remove(path)
    return sizes


def _remove_superseded(out: Path, segment: str, file: str) -> None:
    """Remove what a killed export left of a segment, and folders that were superseded long ago."""
    written: dict[Path, float] = {}
    for folder in out.glob(f"{segment}-*"):
        if (folder / file).exists():
            written[folder] = (folder / file).stat().st_mtime
        else:
            remove(folder)
    oldest_first = sorted(written, key=lambda folder: written[folder])
    for folder, successor in pairwise(oldest_first):
        if written[successor] < time.time() - KEPT_SECONDS:
            remove(folder)


@contextmanager
def _database() -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    with (
        naming_full_disk(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory() as scratch,
        duckdb.connect(config={**_LIMITS, "temp_directory": scratch}) as con,
    ):
        con.execute("SET TimeZone = 'UTC'")
        without_progress_bar(con)
        yield con, Path(scratch)


def _read(con: duckdb.DuckDBPyConnection, kind: Kind, files: list[Path]) -> duckdb.DuckDBPyRelation:
    return con.read_json(
        [str(path) for path in files],
        columns=sql_columns(kind),
        format="newline_delimited",
        maximum_object_size=_LONGEST_LINE,
    ).filter(this_version(kind))


def _write(con: duckdb.DuckDBPyConnection, kind: Kind, records: duckdb.DuckDBPyRelation, target: Path) -> int:
    """Write one record for each id in order of time; returns their number."""
    records.create_view("records", replace=True)
    columns, order = ", ".join(sql_columns(kind)), f"event_time, {ID_FIELD[kind]}"
    forgotten: Forgotten | None = None
    # Who is forgotten meanwhile may be in the file, and whoever forgets has looked before it was there.
    while forgotten != (forgotten := Forgotten.of(target.parent)):
        left_out = forgotten.sql(kind)
        # What a power failure left under this name could not be read, and no later export would replace it.
        with replacing(target, durable=True) as unfinished:
            query = f"SELECT {columns} FROM ({one_record_each(kind, 'records')}) WHERE NOT {left_out} ORDER BY {order}"
            con.sql(query).write_parquet(str(unfinished))
    (written,) = con.read_parquet(str(target)).count("*").fetchall()[0]
    return int(written)


def _whole_lines(segment: Path, scratch: Path) -> Path:
    """A copy without the line that the router may be writing at this moment."""
    content = segment.read_bytes() if segment.exists() else b""
    copy = scratch / segment.name
    copy.write_bytes(content[: content.rfind(b"\n") + 1])
    return copy
