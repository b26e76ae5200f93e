"""The log as two Parquet files for monitoring and analysis. It can be exported while the router writes it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

import duckdb

from mtorl.log.records import ID_FIELD, Kind, one_record_each, sql_columns
from mtorl.runtime.files import replacing
from serving.decision_log.segments import segments

# A log of any size is exported beside a router: what does not fit is sorted on disk, in the folder for temporary files,
# since the current one may be read-only.
_LIMITS = {"memory_limit": "300MB", "threads": "2", "preserve_insertion_order": "false"}
_LONGEST_LINE = 1 << 20  # bytes; the reader keeps some buffers of that size


def export_parquet(log_dir: str | Path, out_dir: str | Path) -> dict[str, int]:
    """Write decisions.parquet and outcomes.parquet, each in one step.

    A spool that is shipped holds the newest `keep_hours` only; the folder of a `ParquetSink` holds everything.

    Columns are those of `mtorl.log.records.sql_columns`: objects and lists are JSON text, `event_time` is a UTC
    timestamp. Without records the files hold the columns alone. Of a decision that was withdrawn, the withdrawal stays.

    Args:
        log_dir: Folder of a `Spool` or of a `ParquetSink`.
        out_dir: Made if it does not exist.

    Returns:
        Number of rows by kind.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, duckdb.connect(config={**_LIMITS, "temp_directory": scratch}) as con:
        con.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        return {kind: _export(con, kind, Path(log_dir), out, Path(scratch)) for kind in get_args(Kind)}


def _export(con: duckdb.DuckDBPyConnection, kind: Kind, log_dir: Path, out: Path, scratch: Path) -> int:
    columns = sql_columns(kind)
    if parts := [str(path) for path in log_dir.glob(f"{kind}s/date=*/hour=*/*.parquet")]:
        con.read_parquet(parts, union_by_name=True).create_view(kind)
    else:
        files = [str(path) for path in _whole_lines(log_dir, kind, scratch)]
        con.read_json(
            files, columns=columns, format="newline_delimited", maximum_object_size=_LONGEST_LINE
        ).create_view(kind)
    target = out / f"{kind}s.parquet"
    order = f"event_time, {ID_FIELD[kind]}"
    rows = con.sql(f"SELECT {', '.join(columns)} FROM ({one_record_each(kind, kind)}) ORDER BY {order}")
    with replacing(target) as unfinished:
        rows.write_parquet(str(unfinished))
    (written,) = con.read_parquet(str(target)).count("*").fetchall()[0]
    return int(written)


def _whole_lines(spool: Path, kind: Kind, scratch: Path) -> list[Path]:
    """The segments, with a copy in place of the newest: the router may be writing a line of it at this moment."""
    *closed, newest = segments(spool, kind) or [spool / f"{kind}-none.jsonl"]
    content = newest.read_bytes() if newest.exists() else b""
    copy = scratch / newest.name
    copy.write_bytes(content[: content.rfind(b"\n") + 1])
    return [*closed, copy]
