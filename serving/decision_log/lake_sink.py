"""Uploads the records of a spool into the lake, as Parquet files.

The file's name contains the positions of its records in the spool, so that a repeated upload replaces the file.
"""

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
from typing_extensions import override

from mtorl.log.decision_ids import BUCKET, HOUR
from mtorl.log.forgotten import Forgotten
from mtorl.log.lake import Lake, name_of, one_of_each
from mtorl.log.records import ID_FIELD, KINDS, sql_columns, this_version
from mtorl.runtime.progress import without_progress_bar
from serving.decision_log.segments import Batch
from serving.decision_log.shipper import Refused, Sink, SinkUnavailable


class LakeSink(Sink):
    """A sink that writes Parquet files into a lake.

    It collects records for `linger` seconds before each upload, so that there are fewer files.
    """

    largest = 10_000
    kinds = KINDS

    def __init__(self, lake: Lake, spool_id: str, linger: float = 60.0) -> None:
        self.linger = linger
        self._lake = lake
        self._spool_id = spool_id
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lake")

    @override
    async def deliver(self, batch: Batch) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._upload, batch)

    @override
    async def close(self) -> None:
        self._thread.shutdown(wait=False)

    def _upload(self, batch: Batch) -> None:
        start, end = batch.start, batch.end.offset
        name = f"{self._spool_id}-{start.segment:08d}-{start.offset:012d}-{end:012d}"
        forgotten: Forgotten | None = None
        try:
            with tempfile.TemporaryDirectory(prefix="mtorl-upload-") as scratch:
                (lines := Path(scratch, "lines.jsonl")).write_bytes(b"".join(batch.lines))
                # A user may be forgotten during the upload.
                while forgotten != (forgotten := self._lake.forgotten()):
                    self._write(batch, lines, name, forgotten)
        except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
            raise Refused(str(error)) from None
        except (OSError, duckdb.Error) as error:
            raise SinkUnavailable("lake", str(error)) from error

    def _write(self, batch: Batch, lines: Path, name: str, forgotten: Forgotten) -> None:
        kind, file = batch.kind, lines.with_name("records.parquet")
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'; SET threads = 1")
            without_progress_bar(db)
            records = db.read_json(str(lines), columns=sql_columns(kind), format="newline_delimited")
            records.filter(this_version(kind)).create_view("lines")
            db.execute(f"CREATE TABLE records AS SELECT *, {HOUR} AS hour, {BUCKET} AS bucket FROM lines")
            ((newest,),) = db.execute("SELECT max(hour) FROM records").fetchall()
            db.sql(
                f"""SELECT * FROM ({one_of_each(kind, "records")}) WHERE NOT {forgotten.sql(kind)}
                ORDER BY bucket, decision_id, {ID_FIELD[kind]}"""
            ).write_parquet(str(file), compression="zstd")
        self._lake.put(file, name_of(kind, newest, name, arrived=True))
