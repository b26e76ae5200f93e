"""Builds sorted, sharded steps from a touchpoint log, from which any causal window can be cut.

    with open_engine() as engine:                                     # ENGINE=duckdb | spark: equal rows
        manifest = build(engine, "touchpoints.parquet", spec, "windows")

Windows overlap, so they are not stored one by one. Rows of whole users lie sorted by user and time: the window of a
touchpoint is the n rows above it, cut where the journey began. `step` is the number of a touchpoint in its journey,
from 0. A pause longer than `spec.journey_gap_days` ends a journey (`mtorl.window.history` applies the same rule).

Nothing in a row depends on a later one. `step` counts earlier touchpoints that arrived late, too: it says where a row
stands, and is no feature. A large log is built shard by shard, so memory does not grow with it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import ibis

from features.engine import Engine, open_engine, unix_micros
from features.sequences.manifest import NOT_IN_ROWS, STEPS, Manifest, Survey, manifest_of, survey
from features.sequences.touchpoints import canonical, clean_touchpoints, cleaned, kept, marked
from mtorl.log.dataset import DatasetSpec
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import COLLECTED, CREATED, DATASET_FILE, INGEST_FILE, LOG_FILE, LogError
from mtorl.runtime import progress
from mtorl.runtime.files import remove, replacing
from mtorl.window.history import journey_gap_us

ROWS_PER_SHARD = 250_000  # bounds the memory that a shard takes, about 1 GB


def steps(touchpoints: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Place every clean touchpoint in its journey.

    Returns:
        user_id, timestamp, [created_timestamp], [collected], step (int32, from 0), the remaining columns of the log,
        and the times of `spec.timed` outcomes; in no order.
    """
    window = ibis.window(group_by="user_id", order_by="timestamp")
    so_far = ibis.cumulative_window(group_by="user_id", order_by="timestamp")

    # Times as numbers: calendar arithmetic is slow.
    now = unix_micros(touchpoints.timestamp)
    goes_on = now - now.lag().over(window) <= journey_gap_us(spec)
    rows = touchpoints.mutate(_row=ibis.row_number().over(window), _goes_on=goes_on.fill_null(False))
    # One value a user, the first, as in the feature view of static columns, from which a policy is served: an own
    # decision that lacked a value takes it from no other row.
    static = {c.name: (rows._row == 0).ifelse(rows[c.name], None).max().over(so_far) for c in spec.static}
    begin = rows._goes_on.ifelse(ibis.null("int64"), rows._row).max().over(so_far)
    rows = rows.mutate(step=(rows._row - begin).cast("int32"), **static)
    own = [name for name in (CREATED, COLLECTED, "step") if name in rows.columns]
    return rows.select("user_id", "timestamp", *own, *spec.log_columns[2:], *spec.outcome_times.values())


def late_rows(touchpoints: ibis.Table) -> ibis.Table:
    """Count the touchpoints that were known only after a younger one of the same user: one row, `late_rows`."""
    to_come = ibis.window(group_by="user_id", order_by="timestamp", following=(1, None))
    late = touchpoints.known > touchpoints.known.min().over(to_come)
    return touchpoints.select(late=late.fill_null(False).cast("int64")).aggregate(
        late_rows=ibis._.late.sum().fill_null(0)
    )


def build(
    engine: Engine,
    log_path: Path | str,
    spec: DatasetSpec,
    out_dir: Path | str,
    shards: int = 0,
    log_fingerprint: str = "",
) -> Manifest:
    """Write a folder of causal steps: steps/*.parquet, dataset.yaml and manifest.json, all at once or nothing.

    Args:
        log_path: Canonical touchpoint log; a log from elsewhere is cleaned, see `features.sequences.touchpoints`.
        out_dir: An earlier folder is replaced in one step.
        shards: Number of shards; 0 takes one for each 250,000 rows.
        log_fingerprint: `mtorl.log.touchpoints.fingerprint` of the log, if it is known.

    Raises:
        LogError: the log has no rows, lacks a column, or has rows without user or time.
    """
    log = canonical(engine.read(log_path), spec)
    without_key = (log.user_id.isnull() | log.timestamp.isnull()).cast("int64")
    size = _one_row(log.aggregate(rows=log.count(), without_key=without_key.sum()))
    if not size["rows"]:
        raise LogError(f"{log_path}: the log has no rows")
    if size["without_key"]:
        raise LogError(
            f"{log_path}: {size['without_key']:,} rows without user_id or timestamp; see `mtorl data validate`"
        )
    shards = shards or math.ceil(size["rows"] / ROWS_PER_SHARD)
    with replacing(Path(out_dir)) as folder:
        try:
            # Nearly every log is clean. Looking first would cost one more pass; what was written shows it as well.
            progress.report(0, shards, f"{size['rows']:,} rows")
            surveys, counts = _write(engine, log, spec, folder, shards, clean=True)
        except _UncleanError:
            shutil.rmtree(folder)
            surveys, counts = _write(engine, log, spec, folder, shards, clean=False)
        manifest = manifest_of(surveys, spec.name, engine.name, log_fingerprint, **counts)
        accounted = manifest.rows + manifest.dropped_duplicates + manifest.dropped_by_cap
        if accounted != size["rows"]:
            raise RuntimeError(f"{engine.name} wrote {accounted:,} of {size['rows']:,} rows; nothing was kept")
        spec.save(folder / DATASET_FILE)
        manifest.write(folder)
    return manifest


def build_windows(log: Path, windows: Path) -> None:
    """Build the windows of a log's folder with the engine $ENGINE."""
    spec = DatasetSpec.load(log / DATASET_FILE)
    fingerprint = json.loads((log / INGEST_FILE).read_text())["fingerprint"]
    with open_engine() as engine:
        build(engine, log / LOG_FILE, spec, windows, log_fingerprint=fingerprint)
    take_opportunities(log, windows)


def take_opportunities(log: Path, windows: Path) -> None:
    """Copy the opportunities beside a log to its windows, where training reads both."""
    if (log / OPPORTUNITIES_FILE).exists():
        shutil.copyfile(log / OPPORTUNITIES_FILE, windows / OPPORTUNITIES_FILE)


class _UncleanError(Exception):
    """A log that was assumed to be clean is not."""


def _write(
    engine: Engine, log: ibis.Table, spec: DatasetSpec, folder: Path, shards: int, clean: bool
) -> tuple[list[Survey], Counter[str]]:
    """Write the shards; returns a survey of each, and the counts of cleaned rows."""
    counts = Counter(dict.fromkeys(NOT_IN_ROWS, 0))

    scratch = folder / ".marked"

    def prepare(part: ibis.Table) -> ibis.Table:
        if clean:
            touchpoints = clean_touchpoints(part, spec, clean=True)
        else:
            engine.write(marked(part, spec), scratch)  # because it is read three times
            rows = engine.read(scratch)
            counts.update(_one_row(cleaned(rows, spec)))
            touchpoints = kept(rows, spec)
        if CREATED in touchpoints.columns:
            counts.update(_one_row(late_rows(touchpoints)))
        return steps(touchpoints, spec)

    surveys: list[Future[Survey]] = []

    def written(path: Path) -> None:
        surveys.append(pool.submit(survey, path, f"{STEPS}/{path.name}"))
        for done in surveys:
            if done.done():
                _check(done.result(), spec)
        progress.report(len(surveys), shards, f"shard {len(surveys)} of {shards}")

    with ThreadPoolExecutor(1) as pool:  # a shard is surveyed while the engine writes the next one
        engine.write_shards(log, prepare, folder / STEPS, shards, written)
        finished = [future.result() for future in surveys]
    remove(scratch)
    for shard in finished:
        _check(shard, spec)
    return finished, counts


def _check(shard: Survey, spec: DatasetSpec) -> None:
    if not shard.in_order or shard.longest_user > spec.max_touchpoints:
        raise _UncleanError(f"{shard.shard.file}: rows out of order, or a user with too many")


def _one_row(table: ibis.Table) -> dict[str, int]:
    return {name: int(value or 0) for name, value in table.to_pyarrow().to_pylist()[0].items()}
