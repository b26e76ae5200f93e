"""A run's own Feast repository: create it, join training windows strictly in the past, keep the online store fresh.

    store.create(root, spec, "touchpoints.parquet")                    # sources, definitions, empty online store
    store.training_windows(root, "touchpoints.parquet", spec, "windows.parquet")
    store.materialize(root)                                            # every user's newest history goes online
    store.refresh(root, spec, "touchpoints.parquet", users=[...])      # after the log has grown

The folder is self-contained: another process (the router) opens it with `FeatureStore(repo_path=root)` and reads
`get_feature_service("ad_decision_v1")` without this package.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from features.sources import HISTORY, STATIC, build_sources, connect, history_types, open_log, quoted
from mtorl.dataset import BASE_COLUMNS, DatasetSpec

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

SERVICE = "ad_decision_v1"
_CONFIG = Path(__file__).parent / "feature_repo" / "feature_store.yaml"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BATCH = 500  # users in one transaction of a refresh


def create(root: Path | str, spec: DatasetSpec, log_parquet: Path | str) -> None:
    """Lay a feature repository: data/*.parquet, feature_store.yaml, registry.db and online.db.

    An existing repository is updated in place: its feature_store.yaml stands (a cluster names its own stores there),
    feature views that the data set no longer defines go.

    Args:
        root: Folder of the repository.
        spec: Description of the data set.
        log_parquet: Canonical touchpoint log.
    """
    from features.feature_repo.views import build

    root = Path(root)
    build_sources(log_parquet, spec, root / "data")
    if not (root / _CONFIG.name).exists():
        shutil.copyfile(_CONFIG, root / _CONFIG.name)
    store = _open(root)
    online = store.config.online_store
    if online.type == "sqlite":
        with contextlib.closing(sqlite3.connect(root / online.path)) as connection:
            # Kept in the file itself: readers in other processes go on while a refresh writes.
            connection.execute("PRAGMA journal_mode = WAL")
    made = build(spec, root / "data")
    objects: list[Any] = [made.user, *(view.batch_source for view in made.views), *made.views, made.ad_decision]
    names = {view.name for view in made.views}
    gone: list[Any] = [view for view in store.list_feature_views() if view.name not in names]
    store.apply(objects, objects_to_delete=gone, partial=False)


def training_windows(root: Path | str, log_parquet: Path | str, spec: DatasetSpec, out_parquet: Path | str) -> int:
    """Join to every touchpoint what was known just before it, and write the windows table.

    Args:
        root: Folder of the repository.
        log_parquet: The log whose touchpoints become rows; `create` or `refresh` has seen it.
        spec: Description of the data set.
        out_parquet: File to write, sorted by user_id and timestamp.

    Returns:
        Number of rows: one for each touchpoint of the log.
    """
    from mtorl.splits import split_of

    with connect() as con:
        open_log(con, log_parquet)
        # Feast joins feature time <= entity time. At the touchpoint's own time its history would hold the touchpoint
        # itself: the answer. One microsecond, the resolution of the log, earlier it holds the past alone.
        entities = con.sql("SELECT user_id, timestamp - INTERVAL 1 MICROSECOND AS event_timestamp FROM log").df()
        store = _open(root)
        with _quiet():
            joined = store.get_historical_features(
                entity_df=entities,
                features=store.get_feature_service(SERVICE),
                filter_by_created_timestamp=True,  # a touchpoint that arrived late is unknown until then
            ).to_arrow()
        con.register("joined", joined)
        users = con.sql("SELECT DISTINCT user_id FROM log").df()["user_id"]
        con.register("splits", users.to_frame().assign(split=split_of(users)))
        con.sql(_windows_sql(spec)).write_parquet(str(out_parquet), use_tmp_file=True)
    return len(entities)


def _windows_sql(spec: DatasetSpec) -> str:
    own = [f"log.{quoted(name)}" for name in BASE_COLUMNS[2:]]
    context = [f"log.{quoted(c.name)}" for c in spec.context]
    static = [f"joined.{quoted(c.name)}" for c in spec.static]
    history = [f"coalesce(joined.{quoted(name)}, []) AS {quoted(name)}" for name in history_types(spec)]
    columns = ", ".join([*own, *context, *static, *history])
    return f"""
        SELECT log.user_id, log.timestamp,
               row_number() OVER (PARTITION BY log.user_id ORDER BY log.timestamp) - 1 AS step,
               count(*) OVER (PARTITION BY log.user_id) AS journey,
               splits.split, {columns}
        FROM log
        JOIN splits USING (user_id)
        JOIN joined ON joined.user_id = log.user_id AND joined.event_timestamp = log.timestamp - INTERVAL 1 MICROSECOND
        ORDER BY log.user_id, log.timestamp"""


def materialize(root: Path | str, end: datetime | None = None) -> None:
    """Put every user's newest history, and static features, into the online store.

    Args:
        root: Folder of the repository.
        end: Leave out what happened later; default: nothing.
    """
    root = Path(root)
    if end is None:
        with connect() as con:
            (end,) = con.read_parquet(str(root / "data" / f"{HISTORY}.parquet")).max("event_timestamp").fetchall()[0]
    store = _open(root)
    with _quiet():
        store.materialize(_EPOCH, end)


def refresh(root: Path | str, spec: DatasetSpec, log_parquet: Path | str, users: Iterable[str] | None = None) -> int:
    """Rebuild the sources from a log that has grown and bring the online store up to date.

    Other processes may read online features meanwhile: they find a user's history as it was before or after, never a
    mixture. The registry stays untouched, for Feast rewrites it in place and a reader could catch half of it.

    Args:
        root: Folder of a repository that `create` made of an earlier state of the log.
        spec: Description of the data set.
        log_parquet: The whole log, not only what is new.
        users: Users to write; default: all of the log.

    Returns:
        Number of users written.
    """
    data = Path(root) / "data"
    build_sources(log_parquet, spec, data)
    store = _open(root)
    written = 0
    with connect() as con:
        only = ""
        if users is not None:
            con.register("wanted", pd.DataFrame({"user_id": list(users)}, dtype="string"))
            only = "SEMI JOIN wanted USING (user_id)"
        for view in (STATIC, HISTORY) if spec.static else (HISTORY,):
            con.read_parquet(str(data / f"{view}.parquet")).create_view("source", replace=True)
            newest = con.sql(
                f"""FROM source {only} QUALIFY row_number() OVER (
                    PARTITION BY user_id ORDER BY event_timestamp DESC, created_timestamp DESC) = 1"""
            ).df()
            for start in range(0, len(newest), _BATCH):
                store.write_to_online_store(view, newest[start : start + _BATCH])
            written = len(newest)
    return written


def online_features(
    store: FeatureStore, service: FeatureService, user_id: str
) -> tuple[dict[str, list[Any]], dict[str, Any], bool]:
    """Read one user's features as `mtorl.windows.instance_from_history` takes them.

    Returns:
        The hist_* lists (empty for an unknown user), the static features (null for an unknown user), and whether the
        user has a history.
    """
    answer = store.get_online_features(features=service, entity_rows=[{"user_id": user_id}]).to_dict()
    # Feast's order of features is not stable, and its status for an unknown user differs between stores: by name, null.
    values = {name: column[0] for name, column in answer.items() if name != "user_id"}
    # A null text inside a list comes back as "" (a null number went in as NaN: see features/sources.py).
    history = {
        name: [None if item == "" else item for item in value or []]
        for name, value in values.items()
        if name.startswith("hist_")
    }
    static = {name: value for name, value in values.items() if not name.startswith("hist_")}
    return history, static, values["hist_channel"] is not None


def _open(root: Path | str) -> FeatureStore:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(root))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Feast's progress report, and a deprecation between its own dependencies, off the console."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", r"fetch_arrow_table\(\) is deprecated", DeprecationWarning)
        yield
