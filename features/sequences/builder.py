"""Writes the touchpoints of a log as steps: sorted by user and time, in shards. Training cuts its windows from them.

    with open_engine() as engine:                                     # ENGINE=duckdb | spark: equal rows
        manifest = build(engine, "touchpoints.parquet", spec, "windows")

Windows overlap, so storing each one would repeat most rows. Instead, the rows of a user are stored once, sorted by
time. The window of a touchpoint is the n rows above it, cut where its journey began. `step` numbers the touchpoints of
a journey from 0. A journey ends with a pause longer than `spec.journey_gap_days` (`mtorl.window.history` applies the
same rule).

A log that this package has ingested is clean. The build relies on this, and checks its output. Other logs are cleaned:

1. If a touchpoint is repeated (see `SAME_TOUCHPOINT`), only the row that arrived first is kept.
2. Touchpoints of a user at the same time are moved one microsecond apart, so that their order is defined. They are
  ordered by campaign, channel, arrival and then the other columns, so that the result is always the same.
3. A user with more than `spec.max_touchpoints` is probably a bot, and only the first touchpoints are kept. These do not
  depend on later rows, so no information from the future is used. Rows that arrived late are an exception: they count
  at the time when they happened.

No value in a row depends on a later row. `step` also counts earlier touchpoints that arrived late, so it is not a
feature.
"""

import json
import math
import shutil
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.datatypes as dt

from features import messages
from features.engine import Engine, open_engine, timestamp_micros, unix_micros
from features.sequences.manifest import NOT_IN_ROWS, STEPS, Manifest, Survey, manifest_of, survey
from mtorl.log.dataset import DatasetSpec
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import COLLECTED, CREATED, DATASET_FILE, INGEST_FILE, LOG_FILE, LogError, schema
from mtorl.runtime import progress
from mtorl.runtime.files import link, remove, replacing
from mtorl.window.history import journey_gap_us

SAME_TOUCHPOINT = ("user_id", "timestamp", "campaign_id", "channel")
"""Columns that identify a touchpoint. Rows with equal values in all of these columns are one touchpoint that was logged
several times."""

_UTC = dt.Timestamp(timezone="UTC", scale=6)


def clean_touchpoints(log: ibis.Table, spec: DatasetSpec, clean: bool | None = None) -> ibis.Table:
    """Return the touchpoints of a log without duplicates. No two touchpoints of a user have the same time.

    Features must not use a touchpoint before its `known`, which is the later of its time and its arrival.

    Args:
        clean: True means that the log needs no cleaning. None means that this is checked first.
    """
    rows = canonical(log, spec)
    if is_clean(rows, spec) if clean is None else clean:
        return _known(rows)
    return kept(marked(rows, spec), spec)


def kept(marked: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Return the rows that cleaning keeps, given the result of `marked`."""
    rows = marked.filter(~marked._repeated, marked._place <= spec.max_touchpoints)
    return _known(rows.mutate(timestamp=rows._time).drop("_repeated", "_place", "_time"))


def _known(rows: ibis.Table) -> ibis.Table:
    arrived = ibis.coalesce(rows[CREATED], rows.timestamp) if CREATED in rows.columns else rows.timestamp
    return rows.mutate(known=ibis.greatest(rows.timestamp, arrived))


def is_clean(log: ibis.Table, spec: DatasetSpec) -> bool:
    """Return True if all rows of a user have different times, and no user has too many rows."""
    moments = log.group_by("user_id", "timestamp").aggregate(rows=log.count())
    users = moments.group_by("user_id").aggregate(rows=moments.rows.sum(), ties=moments.rows.max())
    most = users.aggregate(rows=users.rows.max(), ties=users.ties.max()).to_pyarrow().to_pylist()[0]
    return (most["ties"] or 0) <= 1 and (most["rows"] or 0) <= spec.max_touchpoints


def cleaned(marked: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Count the rows that cleaning drops or moves, by reason, given the result of `marked`."""
    first = ~marked._repeated
    beyond = marked._place > spec.max_touchpoints
    counts = {
        "dropped_duplicates": marked._repeated,
        "moved_ties": first & ~beyond & (marked._time != marked.timestamp),
        "capped_users": first & (marked._place == spec.max_touchpoints + 1),
        "dropped_by_cap": first & beyond,
    }
    return marked.aggregate(**{name: rows.cast("int64").sum().fill_null(0) for name, rows in counts.items()})


def canonical(log: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Return the canonical columns of a log, in the canonical order and with the canonical types."""
    times = tuple(spec.outcome_times.values())
    if missing := [name for name in (*spec.log_columns, *times) if name not in log.columns]:
        raise LogError(f"the log lacks {', '.join(missing)}. Run `mtorl data validate`")
    kinds = dict(ibis.Schema.from_pyarrow(schema(spec)).items())
    arrival = [CREATED] if CREATED in log.columns else []
    kinds |= dict.fromkeys(("timestamp", *times, *arrival), _UTC)
    kinds |= {COLLECTED: dt.boolean} if COLLECTED in log.columns else {}
    return log.select(**{name: log[name].cast(kind) for name, kind in kinds.items()})


def strictly_increasing(micros: ibis.Value, place: ibis.Value, so_far: Any) -> ibis.Value:
    """Make times increase strictly, by moving each one forward as little as possible."""
    return place + (micros - place).max().over(so_far)


def marked(log: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Add the columns from which `kept` and `cleaned` decide what to do with each row.

    - `_repeated`: true if the row repeats an earlier row.
    - `_place`: number of the row, from 1, among the user's rows that are not repeated.
    - `_time`: time of the row, moved if another row of the user has the same time.
    """
    first = list(SAME_TOUCHPOINT[1:])
    # A row without an arrival time counts as arrived at its own time.
    arrival = [ibis.coalesce(log[CREATED], log.timestamp)] if CREATED in log.columns else []
    order = [*first, *arrival, *(name for name in log.columns if name not in ("user_id", *first))]
    in_order = ibis.window(group_by="user_id", order_by=order)

    same = log.timestamp == log.timestamp.lag().over(in_order)
    for name in SAME_TOUCHPOINT[2:]:
        same &= log[name].identical_to(log[name].lag().over(in_order))
    # Number the rows, so that equal rows have a fixed order and sorting is faster.
    rows = log.mutate(_repeated=same.fill_null(False), _turn=ibis.row_number().over(in_order))
    so_far = ibis.cumulative_window(group_by="user_id", order_by="_turn")
    rows = rows.mutate(_place=(~rows._repeated).cast("int64").sum().over(so_far))
    micros = unix_micros(rows.timestamp)
    moved = strictly_increasing(micros, rows._place, so_far)
    return rows.mutate(_time=(moved > micros).ifelse(timestamp_micros(moved), rows.timestamp)).drop("_turn")


# With this many rows, a shard needs about 1 GB of memory.
ROWS_PER_SHARD = 250_000


def steps(touchpoints: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Number the touchpoints of each journey from 0, in the column `step`. The result is not sorted."""
    window = ibis.window(group_by="user_id", order_by="timestamp")
    so_far = ibis.cumulative_window(group_by="user_id", order_by="timestamp")

    # Arithmetic on timestamps is slow.
    now = unix_micros(touchpoints.timestamp)
    goes_on = now - now.lag().over(window) <= journey_gap_us(spec)
    rows = touchpoints.mutate(_row=ibis.row_number().over(window), _goes_on=goes_on.fill_null(False))
    # All rows of a user get the first row's static values, even null, as in the online store.
    static = {c.name: (rows._row == 0).ifelse(rows[c.name], None).max().over(so_far) for c in spec.static}
    begin = rows._goes_on.ifelse(ibis.null("int64"), rows._row).max().over(so_far)
    rows = rows.mutate(step=(rows._row - begin).cast("int32"), **static)
    own = [name for name in (CREATED, COLLECTED, "step") if name in rows.columns]
    return rows.select("user_id", "timestamp", *own, *spec.log_columns[2:], *spec.outcome_times.values())


def late_rows(touchpoints: ibis.Table) -> ibis.Table:
    """Count the touchpoints that arrived when a younger touchpoint of the user was already known."""
    to_come = ibis.window(group_by="user_id", order_by="timestamp", following=(1, None))
    late = touchpoints.known > touchpoints.known.min().over(to_come)
    return touchpoints.select(late=late.fill_null(False).cast("int64")).aggregate(
        late_rows=ibis._.late.sum().fill_null(0)
    )


def build(
    engine: Engine, log_path: Path | str, spec: DatasetSpec, out_dir: Path | str, log_fingerprint: str = ""
) -> Manifest:
    """Write the steps of a log to a folder: steps/*.parquet, dataset.yaml and manifest.json.

    Raises:
        LogError: The log has no rows, lacks a column, or has a row without a user or a time.
    """
    log = canonical(engine.read(log_path), spec)
    without_key = (log.user_id.isnull() | log.timestamp.isnull()).cast("int64")
    size = _one_row(log.aggregate(rows=log.count(), without_key=without_key.sum()))
    if not size["rows"]:
        raise LogError(messages.NO_ROWS(file=log_path))
    if size["without_key"]:
        without = f"{size['without_key']:,} rows without user_id or timestamp"
        raise LogError(f"{log_path}: {without}. Run `mtorl data validate`")
    shards = math.ceil(size["rows"] / ROWS_PER_SHARD)
    with replacing(Path(out_dir)) as folder:
        try:
            # Nearly all logs are clean, so it is faster to write the log without cleaning and check the result.
            progress.report(0, shards, f"{size['rows']:,} rows")
            surveys, counts = _write(engine, log, spec, folder, shards, clean=True)
        except _UncleanError:
            shutil.rmtree(folder)
            surveys, counts = _write(engine, log, spec, folder, shards, clean=False)
        manifest = manifest_of(surveys, spec.name, engine.name, log_fingerprint, **counts)
        accounted = manifest.rows + manifest.dropped_duplicates + manifest.dropped_by_cap
        if accounted != size["rows"]:
            raise RuntimeError(f"{engine.name} wrote {accounted:,} of {size['rows']:,} rows; result discarded")
        spec.save(folder / DATASET_FILE)
        manifest.write(folder)
    return manifest


def build_windows(log: Path, windows: Path) -> None:
    """Write the steps of a log folder to `windows`, with the engine in $ENGINE, and link the opportunities there."""
    spec = DatasetSpec.load(log / DATASET_FILE)
    fingerprint = json.loads((log / INGEST_FILE).read_text())["fingerprint"]
    with open_engine() as engine:
        build(engine, log / LOG_FILE, spec, windows, log_fingerprint=fingerprint)
    take_opportunities(log, windows)


def take_opportunities(log: Path, windows: Path) -> None:
    """Link the file of opportunities from a log folder to its windows folder, where training reads it."""
    if (log / OPPORTUNITIES_FILE).exists():
        link(log / OPPORTUNITIES_FILE, windows / OPPORTUNITIES_FILE)


class _UncleanError(Exception):
    """Raised if the written steps show that the log was not clean."""


def _write(
    engine: Engine, log: ibis.Table, spec: DatasetSpec, folder: Path, shards: int, clean: bool
) -> tuple[list[Survey], Counter[str]]:
    """Write the shards. Returns a survey of each shard, and the number of rows that cleaning dropped or moved."""
    counts, scratch = Counter(dict.fromkeys(NOT_IN_ROWS, 0)), folder / ".marked"

    def prepare(part: ibis.Table) -> ibis.Table:
        if clean:
            touchpoints = clean_touchpoints(part, spec, clean=True)
        else:
            engine.write(marked(part, spec), scratch)  # stored, because it is read three times
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

    # Check a shard in a thread while the engine writes the next shard.
    with ThreadPoolExecutor(1) as pool:
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
