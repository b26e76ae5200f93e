"""Manages the Feast repository of a run: creates it, adds its features to training rows, and fills the online store.

    store.create(root, spec, "touchpoints.parquet")                    # sources, definitions, empty online store
    store.training_windows(root, "windows", spec)                      # adds Feast's features to the windows
    store.materialize(root, spec, "touchpoints.parquet")               # writes the newest features of every key online

Readers of the online features need only the registry and the online store.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sqlite3
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import messages
from features.engine import Engine, batches, open_engine, timestamp_micros, unix_micros
from features.feature_repo.sources import CAMPAIGN_STATS, build_sources, changed_users, newest_touchpoints
from features.ingest.log_folder import Built
from features.offline import backfill
from features.offline.exposures import Exposures
from features.online.open_history import open_history
from features.sequences.builder import clean_touchpoints
from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec, FeatureField
from mtorl.log.times import microseconds
from mtorl.log.touchpoints import DATASET_FILE, LOG_FILE, LogError
from mtorl.runtime.files import remove, replacing
from mtorl.window.window import AD_DECISION, HISTORY, STATIC

if TYPE_CHECKING:
    from feast import FeatureStore


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CONFIG = Path(__file__).parents[1] / "feature_repo" / "feature_store.yaml"


def create(root: Path | str, spec: DatasetSpec, log_parquet: Path | str) -> None:
    """Create a Feast repository: data/*.parquet, feature_store.yaml, registry.db and online.db.

    An existing feature_store.yaml is not replaced, because a cluster configures its stores there.
    """
    with _quiet(), open_engine() as engine:
        touchpoints = clean_touchpoints(engine.read(log_parquet), spec)
        build_sources(engine, touchpoints, spec, Path(root) / "data")
    define(root, spec)


def define(root: Path | str, spec: DatasetSpec) -> None:
    """Create or update the feature definitions of a repository, without computing the Parquet files of its views."""
    from features.feature_repo.views import build

    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    # The repository is mounted at different paths.
    definitions = build(spec, Path("data"))
    if not (root / CONFIG.name).exists():
        shutil.copyfile(CONFIG, root / CONFIG.name)
    store = _open(root)
    online = store.config.online_store
    if online.type == "sqlite":
        with contextlib.closing(sqlite3.connect(root / online.path)) as connection:
            # In this mode, which the file records, a process can read while another one writes.
            connection.execute("PRAGMA journal_mode = WAL")
    names = {view.name for view in definitions.views}
    removed: list[Any] = [view for view in store.list_feature_views() if view.name not in names]
    with _quiet():
        store.apply(definitions.objects, objects_to_delete=removed, partial=False)


# ---- training


def build_training_data(log: Path, root: Path, windows: Path, built: Built | None = None) -> int:
    """Create a Feast repository and a windows folder from a log folder. Returns the number of windows."""
    from features.sequences.builder import build_windows

    spec = DatasetSpec.load(log / DATASET_FILE)
    if built is not None:
        rows = built.take_windows(log, windows)
        define(root, spec)
        return rows
    create(root, spec, log / LOG_FILE)
    build_windows(log, windows)
    return training_windows(root, windows, spec)


def training_windows(root: Path | str, windows: Path | str, spec: DatasetSpec) -> int:
    """Add to each touchpoint of a windows folder the feature values from just before it. Returns the number of rows.

    If Feast has no value, the feature gets its default, as in the router.
    """
    from features.sequences.manifest import rewrite_shards

    store = _open(root)
    service = store.get_feature_service(AD_DECISION)
    wanted = {
        feature.name: (f"{projection.name}:{feature.name}", feature)
        for projection in service.feature_view_projections
        if projection.name != HISTORY
        for feature in projection.features
    }

    def join(steps: pa.Table) -> pa.Table:
        if not wanted:
            return steps
        entities = steps.select(["user_id", "campaign_id", "timestamp"])
        entities = entities.rename_columns(["user_id", "campaign_id", "event_timestamp"])
        with _quiet():
            joined = store.get_historical_features(
                entity_df=entities,
                features=[reference for reference, _ in wanted.values()],
                # A touchpoint that arrived late counts only from its arrival.
                filter_by_created_timestamp=True,
            ).to_arrow()
        for name, (_, feature) in wanted.items():
            steps = _with(steps, name, _filled(joined[name].combine_chunks(), feature.tags.get("default", "null")))
        for view in spec.features:
            for field in view.fields:
                steps = _with_inputs(steps, field, spec)
        return steps

    return rewrite_shards(Path(windows), join)


def _with(steps: pa.Table, name: str, column: pa.Array) -> pa.Table:
    at = steps.column_names.index(name) if name in steps.column_names else None
    return steps.append_column(name, column) if at is None else steps.set_column(at, name, column)


def _with_inputs(steps: pa.Table, field: FeatureField, spec: DatasetSpec) -> pa.Table:
    """Add the model's input columns for one stored field. A list with a value per channel becomes several columns."""
    default = "0.0" if field.missing == "zero" else "null"
    names, column = spec.columns_of(field), steps[field.name].combine_chunks()
    if not field.by_channel:
        kind = pa.string() if field.kind == "categorical" else pa.float64()
        return _with(steps, field.name, _filled(column.cast(kind), default))
    lengths = pc.list_value_length(column)
    if not pc.all(pc.equal(lengths, len(names)), min_count=0).as_py():
        raise WindowError(f"features: {field.name} must have {len(names)} values in every row, one per channel")
    for place, name in enumerate(names):
        steps = _with(steps, name, _filled(pc.list_element(column, place).cast(pa.float64()), default))
    return steps


def _filled(values: pa.Array, default: str) -> pa.Array:
    """Replace null and NaN in a column by `default`, a value in JSON."""
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    rest = pa.array([json.loads(default)], values.type)
    places = pc.if_else(values.is_valid(), pa.array(np.arange(len(values))), len(values))
    return pa.concat_arrays([values, rest]).take(places)


# ---- online


@dataclass(frozen=True)
class Materialized:
    """The result of a run of `materialize`. Times are in microseconds since 1970.

    Attributes:
        written: Number of rows of the online store that changed.
        newest: Latest time at which a touchpoint of the log or the lake became known.
        until: Latest time at which a touchpoint of the log became known.
        rows: Number of touchpoints of the log that were known at `until`.
    """

    users: int
    written: int
    newest: int
    until: int
    rows: int


def materialize(
    root: Path | str,
    spec: DatasetSpec,
    log: Path | str,
    end: datetime | None = None,
    users: Iterable[str] | None = None,
    views: Collection[str] | None = None,
    since: Materialized | None = None,
    exposures: Exposures | None = None,
) -> Materialized:
    """Write the newest features of all keys in a log to the online store, without overwriting newer rows there.

    Args:
        end: Ignore touchpoints that happened or became known after this time. By default, the whole log counts.
        since: Result of the previous run on the same store and log. Only users who may have changed are written.
    """
    store, data, written = _open(root), Path(root) / "data", 0
    with open_history(root, spec) as history, _quiet(), open_engine() as engine:
        # This table serves only to count rows and to choose users, so it is not cleaned.
        logged = clean_touchpoints(engine.read(log), spec, clean=True)
        touchpoints = clean_touchpoints(_with_exposures(engine, logged, exposures), spec)
        newest, until = (
            microseconds(end) if end else _scalar(unix_micros(rows.known.max())) for rows in (touchpoints, logged)
        )
        if until is None:
            raise LogError(messages.NO_ROWS(file=log))

        def known(at_us: int) -> int:
            return int(_scalar((logged.known <= timestamp_micros(at_us)).sum()) or 0)

        changed = None
        if users is not None:
            changed = ibis.memtable(pa.table({"user_id": pa.array(list(users), pa.string())}))
        elif since is not None and since.rows == known(since.until):
            changed = changed_users(logged, spec, since.until, until)
            if exposures is not None:
                changed = changed.union(engine.read(exposures.users))
        some = touchpoints
        if changed is not None:
            # stored, because it is read several times
            engine.write(some.semi_join(changed, "user_id"), data / "some.parquet")
            some = engine.read(data / "some.parquet")
        done = Materialized(int(_scalar(some.user_id.nunique())), 0, newest, until, known(until))
        names = {view.name for view in store.list_feature_views()} if views is None else set(views)
        if exposures is not None and not exposures.campaigns:
            names.discard(CAMPAIGN_STATS)
        build_sources(engine, touchpoints, spec, data, some, names)
        for view in store.list_feature_views():
            if view.name not in names:
                continue
            if view.name == HISTORY:
                path = data / f"{HISTORY}.parquet"
                engine.write(newest_touchpoints(some.filter(some.known <= timestamp_micros(newest)), spec), path)
                written += history.merge(batches(path))
                continue
            source: Any = view.batch_source
            # Some of Feast's offline stores do not resolve a relative path from the repository's folder.
            source.file_options.uri = str((Path(root) / source.file_options.uri).resolve())
            latest = backfill.newest_rows(store, view, _EPOCH + timedelta(microseconds=newest))
            # Keep stored static values, which are a user's first ones. A run with `since` may not have read the first
            # ones.
            written += backfill.write(store, view, latest, missing=since is not None and view.name == STATIC)
    return replace(done, written=written)


def _with_exposures(engine: Engine, log: ibis.Table, exposures: Exposures | None) -> ibis.Table:
    if exposures is None:
        return log
    rows = engine.read(exposures.touchpoints)
    return log.union(
        rows.select(**{n: (rows[n] if n in rows.columns else ibis.null()).cast(t) for n, t in log.schema().items()})
    )


def _scalar(value: ibis.Value) -> Any:
    return value.to_pyarrow().as_py()


def _open(root: Path | str) -> FeatureStore:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(root))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide Feast's progress display, and warnings that users can't act on."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
        warnings.filterwarnings("ignore", r"fetch_arrow_table\(\) is deprecated", DeprecationWarning)
        yield


REGISTRY, ONLINE = "registry.db", "online.db"


def without_sources(repository: Path) -> None:
    """Remove the Parquet files from a repository, to keep only its definitions and its online store."""
    remove(repository / "data")
    with contextlib.closing(sqlite3.connect(repository / ONLINE)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # moves pending changes into the file


def install(made: Path, root: Path) -> bool:
    """Copy a repository's definitions to the folder that servers and jobs mount.

    Returns:
        True if the registry was replaced, or False if its definitions are the same.
    """
    for name in (CONFIG.name, ONLINE):
        if not (root / name).exists():
            _copy(made / name, root / name)
    if (root / REGISTRY).exists() and _definitions(root / REGISTRY) == _definitions(made / REGISTRY):
        return False
    _copy(made / REGISTRY, root / REGISTRY)
    return True


def _copy(source: Path, target: Path) -> None:
    with replacing(target, durable=True) as unfinished:
        shutil.copyfile(source, unfinished)


def _definitions(registry: Path) -> list[bytes]:
    """Return the definitions in a Feast registry, without their times of creation."""
    from feast.protos.feast.core.Registry_pb2 import Registry

    made = Registry.FromString(registry.read_bytes())
    sources = [view.spec.batch_source for view in made.feature_views]
    for source in sources + [view.batch_source for service in made.feature_services for view in service.spec.features]:
        source.ClearField("meta")
    defined = (*made.entities, *made.feature_views, *made.feature_services)
    return sorted(one.spec.SerializeToString(deterministic=True) for one in defined)
