"""From the spool to Parquet: what analysis, monitoring and drift read. Works while the router writes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb

from serving.decision_log.records import Kind, sql_columns
from serving.decision_log.segments import segments

# A decision that was logged twice was withdrawn (the first write was late, so the default action was answered): its
# second record sorts first. An event is written once by each router; several routers' folders may hold it twice.
_KEYS: dict[Kind, tuple[str, str]] = {
    "decision": ("decision_id", "expose, fallback_reason IS NULL"),
    "outcome": ("event_id", "event_time"),
}


def export_parquet(spool_dir: str | Path, out_dir: str | Path) -> dict[str, int]:
    """Write decisions.parquet and outcomes.parquet, each in one step.

    Types come from the record schemas. `context`, `candidates` and `channel_probs` are JSON text, `event_time` is a UTC
    timestamp. Without records the files hold the columns alone.

    Args:
        spool_dir: Folder of a `Spool`.
        out_dir: Made if it does not exist.

    Returns:
        Number of rows by kind.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        return {kind: _export(con, kind, Path(spool_dir), out, Path(scratch)) for kind in _KEYS}


def _export(con: duckdb.DuckDBPyConnection, kind: Kind, spool: Path, out: Path, scratch: Path) -> int:
    columns = sql_columns(kind)
    key, first = _KEYS[kind]
    files = [str(path) for path in _whole_lines(spool, kind, scratch)]
    con.read_json(files, columns=columns, format="newline_delimited").create_view(kind)
    con.execute(
        f"""COPY (
            SELECT {", ".join(columns)} FROM {kind}
            QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {first}) = 1
            ORDER BY event_time, {key}
        ) TO '{str(out / f"{kind}s.parquet").replace("'", "''")}' (FORMAT parquet, USE_TMP_FILE true)"""
    )
    (rows,) = con.read_parquet(str(out / f"{kind}s.parquet")).count("*").fetchall()[0]
    return int(rows)


def _whole_lines(spool: Path, kind: Kind, scratch: Path) -> list[Path]:
    """The segments, with a copy in place of the newest: the router may be in the middle of a line there."""
    *closed, newest = segments(spool, kind) or [spool / f"{kind}-none.jsonl"]
    content = newest.read_bytes() if newest.exists() else b""
    copy = scratch / newest.name
    copy.write_bytes(content[: content.rfind(b"\n") + 1])
    return [*closed, copy]
