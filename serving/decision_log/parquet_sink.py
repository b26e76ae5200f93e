"""Ships into hourly folders of Parquet files, without a server: the sink of a laptop.

    decisions/date=2026-11-25/hour=20/part-5f0c9a7e-00000001-000000000000-000000081920-0.parquet

DuckDB reads `decisions/*/*/*.parquet` with hive_partitioning; the columns are those of `export_parquet`. A file's name
has the spool, the segment and the bytes that it holds: a batch that is delivered again replaces the files from its
first byte on. A decision that was withdrawn after its file was written has two rows; `export_parquet` keeps the one
that counts.
"""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
from typing_extensions import override

from mtorl.log.forgotten import Forgotten
from mtorl.log.records import ID_FIELD, Kind, one_record_each, sql_columns, this_version
from mtorl.runtime.files import sync
from mtorl.runtime.progress import without_progress_bar
from serving.decision_log.position import Batch, Position
from serving.decision_log.sink import Refused, Sink, SinkUnavailable


class ParquetSink(Sink):
    """Writes Parquet files.

    Args:
        spool_id: Identity of the spool; several may ship to the same folder.
    """

    largest = 5_000
    linger = 60.0  # fewer, larger files

    def __init__(self, folder: Path, spool_id: str) -> None:
        self.folder = folder
        self._spool_id = spool_id
        self._next: dict[Kind, Position] = {}  # where the next batch begins, unless something is delivered again
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parquet")

    @override
    async def deliver(self, batch: Batch) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, batch)

    @override
    async def close(self) -> None:
        self._thread.shutdown(wait=False)

    def _write(self, batch: Batch) -> None:
        scratch = self.folder / f".scratch-{self._spool_id}"
        forgotten: Forgotten | None = None
        try:
            # As in an export: who is forgotten meanwhile may be in the files, and was not found there.
            while forgotten != (forgotten := Forgotten.of(self.folder)):
                shutil.rmtree(scratch, ignore_errors=True)  # a crash may have left one
                scratch.mkdir(parents=True)
                self._copy(batch, scratch, forgotten)
                self._remove_older(batch)
                self._publish(batch, scratch)
        except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
            raise Refused(str(error)) from None
        except (OSError, duckdb.Error) as error:
            raise SinkUnavailable("disk", str(error)) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._next[batch.kind] = batch.end

    def _copy(self, batch: Batch, scratch: Path, forgotten: Forgotten) -> None:
        lines = scratch / "lines.jsonl"
        lines.write_bytes(b"".join(batch.lines))
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'; SET threads = 1")
            without_progress_bar(con)
            records = con.read_json(str(lines), columns=sql_columns(batch.kind), format="newline_delimited")
            records.filter(this_version(batch.kind)).create_view("lines")
            con.sql(f"""
                SELECT *, strftime(event_time, '%Y-%m-%d') AS date, strftime(event_time, '%H') AS hour
                FROM ({one_record_each(batch.kind, "lines")})
                WHERE NOT {forgotten.sql(batch.kind)} ORDER BY event_time, {ID_FIELD[batch.kind]}
            """).write_parquet(str(scratch / "out"), partition_by=["date", "hour"])

    def _remove_older(self, batch: Batch) -> None:
        """Remove the files of an earlier delivery from the first byte of this batch on."""
        if self._next.pop(batch.kind, None) == batch.start:
            return
        for path in self.folder.glob(f"{batch.kind}s/*/*/part-{self._spool_id}-{batch.start.segment:08d}-*.parquet"):
            if int(path.name.split("-")[3]) >= batch.start.offset:
                path.unlink()

    def _publish(self, batch: Batch, scratch: Path) -> None:
        """Put the files in place: each appears complete, and is durable with all folders that lead to it."""
        name = f"part-{self._spool_id}-{batch.start.segment:08d}-{batch.start.offset:012d}-{batch.end.offset:012d}"
        for path in sorted((scratch / "out").glob("*/*/*.parquet")):
            target = self.folder / f"{batch.kind}s" / path.parent.relative_to(scratch / "out")
            target.mkdir(parents=True, exist_ok=True)
            sync(path)
            path.rename(target / f"{name}-{path.stem.rpartition('_')[2]}.parquet")
            for folder in (target, *list(target.parents)[:3]):
                sync(folder)
