"""A Feast offline store on DuckDB that finds, for each training row, the newest feature row from before it.

    offline_store:
      type: features.offline.asof_store.AsofDuckDBOfflineStore

Feast's own join is slow if keys have many rows. It also joins feature rows with the same time as the training row, so
that a training row could see its own outcome.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, FileSource, OnDemandFeatureView
from feast.data_source import DataSource
from feast.errors import FeastEntityDFMissingColumnsError
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig
from pydantic import StrictStr

from features.engine import parquet_files
from mtorl.runtime.progress import without_progress_bar
from mtorl.runtime.sql import sql_name, sql_text

# Above this limit, DuckDB writes temporary data to disk.
MEMORY_LIMIT = "1GB"
_UTC = pa.timestamp("us", tz="UTC")
# Entity rows are moved back by this much, so that only older features are joined.
_SHIFT = timedelta(microseconds=1)


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings of this offline store, from the section `offline_store` of feature_store.yaml."""

    type: StrictStr = "features.offline.asof_store.AsofDuckDBOfflineStore"


class AsofDuckDBOfflineStore(DuckDBOfflineStore):
    """A Feast offline store that reads local Parquet files, or folders of Parquet files."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Add to each entity row the values of the newest feature row that is older than the entity row.

        Args:
            filter_by_created_timestamp: Also ignore feature rows that were not yet created at the entity row's time.
        """
        entities, time = _entity_table(entity_df)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        views = [_View.of(view, feature_refs, full_feature_names, config) for view in feature_views]
        _check_columns(entities, time, views)
        with _duckdb() as con:
            moments = pc.subtract(entities[time], pa.scalar(_SHIFT))
            keys = entities.select(_keys(views))
            places = pa.array(np.arange(entities.num_rows))
            con.register("entities", keys.append_column("__moment", moments).append_column("__place", places))
            parts = [(one.rows, one.names, one.match(con, len(moments), filter_by_created_timestamp)) for one in views]
        times = pc.min_max(entities[time]).as_py()
        others = [column for column in entities.column_names if column != time]
        metadata = RetrievalMetadata(feature_refs, others, times["min"], times["max"])
        return AsofRetrievalJob(entities, parts, on_demand, full_feature_names, metadata)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return the newest feature row of each key in a period, without rows that were created after the period."""
        stamps = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        columns = [*join_key_columns, *feature_name_columns, *stamps]
        rows = ParquetRows(source_path(data_source, config), columns)
        keys = ", ".join(map(sql_name, join_key_columns))
        with _duckdb() as con:
            newest = con.sql(
                f"""SELECT max({_best(timestamp_field, created_timestamp_column, rows)}).row AS row
                    FROM {rows.relation}
                    WHERE {sql_name(timestamp_field)}::TIMESTAMPTZ BETWEEN $1 AND $2
                      AND NOT coalesce({sql_name(created_timestamp_column or timestamp_field)}::TIMESTAMPTZ > $2, false)
                    GROUP BY {keys} ORDER BY row""",
                params=[_aware(start_date), _aware(end_date)],
            ).to_arrow_table()
        numbers = newest["row"].combine_chunks().cast(pa.int64())
        return AsofRetrievalJob(pa.table({}), [(rows, columns, numbers)], [], False, None)


@dataclass(frozen=True)
class _View:
    """The rows and columns of a feature view that the join needs.

    Attributes:
        keys: Maps key columns of the feature rows to those of the entity rows.
        ttl: Age above which a feature row is ignored. None means no limit.
    """

    rows: ParquetRows
    names: list[str]
    keys: dict[str, str]
    time: str
    created: str | None
    ttl: timedelta | None

    @classmethod
    def of(cls, view: FeatureView, feature_refs: Sequence[str], full: bool, config: RepoConfig) -> _View:
        source = view.batch_source
        if source is None:
            raise ValueError(f"feature view {view.name}: without a batch source, it has no history to join")
        prefix = f"{view.projection.name_to_use()}:"
        features = [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]
        original = {new: old for old, new in source.field_mapping.items()}
        rows = ParquetRows(source_path(source, config), [original.get(name, name) for name in features])
        called = view.projection.name_alias or view.name
        keys = view.projection.join_key_map or {e.name: e.name for e in view.entity_columns}
        return cls(
            rows,
            [f"{called}__{name}" if full else name for name in features],
            {original.get(key, key): column for key, column in keys.items()},
            original.get(source.timestamp_field, source.timestamp_field),
            original.get(source.created_timestamp_column, source.created_timestamp_column) or None,
            view.ttl,
        )

    def match(self, con: duckdb.DuckDBPyConnection, count: int, by_created: bool) -> pa.Int64Array:
        """Return, for each of the `count` entity rows, the number of its feature row, or null if it has none."""
        same = " AND ".join(f"s.{sql_name(key)} = e.{sql_name(column)}" for key, column in self.keys.items())
        age = f"e.__moment + {_interval(_SHIFT)} - s.time"
        alive = f"{age} <= {_interval(self.ttl)}" if self.ttl else "true"
        matches = con.sql(
            f"""
            WITH visible AS ({self._visible(con, same, by_created and self.created is not None)})
            SELECT e.__place AS place, s.row AS row
            FROM entities AS e ASOF JOIN visible AS s ON {same} AND e.__moment >= s.known
            WHERE {alive}"""
        ).fetchnumpy()
        rows = np.full(count, -1)
        rows[matches["place"]] = matches["row"]
        return pa.array(rows, mask=rows < 0)

    def _visible(self, con: duckdb.DuckDBPyConnection, same: str, by_created: bool) -> str:
        """Return SQL for the feature rows to join, with the time `known` from which a row is the newest of its key."""
        keys = ", ".join(map(sql_name, self.keys))
        time, created = f"{sql_name(self.time)}::TIMESTAMPTZ", f"{sql_name(self.created or self.time)}::TIMESTAMPTZ"
        relation = f"{self.rows.relation} AS s WHERE EXISTS (FROM entities AS e WHERE {same})"
        if by_created:
            relation += f" AND {created} IS NOT NULL"
        if not by_created or not con.sql(f"SELECT bool_or({created} > {time}) FROM {relation}").fetchall()[0][0]:
            # One integer of creation time and row number is compared twice as fast as a struct.
            order = f"coalesce(epoch_us({created}), -1)::HUGEINT * {2**40} + {self.rows.number}"
            newest = f"arg_max({self.rows.number}, {order})"
            return (
                f"SELECT {keys}, {time} AS known, {newest} AS row, known AS time FROM {relation} GROUP BY {keys}, known"
            )
        # A row can be used once its time has come and it was created. Drop a row if a younger row can be used earlier,
        # because it would never be chosen. The remaining rows become usable in the order of their age, so the ASOF join
        # needs to compare only `known`.
        best = _best(self.time, self.created, self.rows)
        return f"""
            SELECT {keys}, known, best.row, best.time
            FROM (SELECT {keys}, greatest({time}, {created}) AS known, max({best}) AS best
                  FROM {relation} GROUP BY {keys}, known)
            QUALIFY best = max(best) OVER (PARTITION BY {keys} ORDER BY known)"""


def _best(time: str, created: str | None, rows: ParquetRows) -> str:
    """Return SQL for the sort key of a feature row: its time, then its creation time, then its row number."""
    created = f"coalesce({sql_name(created)}::TIMESTAMPTZ, '-infinity')" if created else "'-infinity'::TIMESTAMPTZ"
    return f"{{'time': {sql_name(time)}::TIMESTAMPTZ, 'created': {created}, 'row': {rows.number}}}"


def _entity_table(entity_df: pd.DataFrame | pa.Table | str | None) -> tuple[pa.Table, str]:
    """Return the entity rows as an Arrow table with times in UTC, and the name of the time column."""
    if isinstance(entity_df, pd.DataFrame):
        table = pa.Table.from_pandas(entity_df, preserve_index=False)
    elif isinstance(entity_df, pa.Table):
        table = entity_df
    else:
        raise ValueError(f"entity rows must be a pandas DataFrame or an Arrow table, not {type(entity_df).__name__}")
    time = infer_event_timestamp_from_entity_df(dict(table.schema.empty_table().to_pandas().dtypes))
    times = pd.to_datetime(table[time].to_pandas(), utc=True).astype("datetime64[us, UTC]")
    at = table.column_names.index(time)
    return table.replace_schema_metadata().set_column(at, time, pa.array(times, _UTC)), time


def _check_columns(entities: pa.Table, time: str, views: Sequence[_View]) -> None:
    present = set(entities.column_names)
    needed = {time, *_keys(views)}
    if missing := needed - present:
        raise FeastEntityDFMissingColumnsError(sorted(needed), sorted(missing))
    if twice := present & {name for view in views for name in view.names}:
        name = sorted(twice)[0]
        raise ValueError(f"entity rows and a view have a column {name!r}. Rename it, or request full feature names")


def _keys(views: Sequence[_View]) -> list[str]:
    return list(dict.fromkeys(column for view in views for column in view.keys.values()))


@contextmanager
def _duckdb() -> Iterator[duckdb.DuckDBPyConnection]:
    with (
        tempfile.TemporaryDirectory(prefix="mtorl-asof-") as folder,
        duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": folder}) as con,
    ):
        con.execute("SET TimeZone = 'UTC'")
        without_progress_bar(con)
        yield con


def _aware(time: datetime) -> datetime:
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _interval(span: timedelta) -> str:
    return f"to_microseconds({span // timedelta(microseconds=1)})"


class AsofRetrievalJob(RetrievalJob):
    """The result of a query. Values are read from the Parquet files only when Feast asks for the result.

    Args:
        parts: One entry per view: its feature rows, its column names, and the number of the feature row for each entity
            row. The number is null if there is no such row.
    """

    def __init__(
        self,
        entities: pa.Table,
        parts: Sequence[tuple[ParquetRows, Sequence[str], pa.Int64Array]],
        on_demand: list[OnDemandFeatureView],
        full_feature_names: bool,
        metadata: RetrievalMetadata | None,
    ) -> None:
        super().__init__()
        self._entities, self._parts = entities, parts
        self._on_demand, self._full, self._metadata = on_demand, full_feature_names, metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether the result names features "view__feature"."""
        return self._full

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """On-demand views, which Feast computes from the result."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """The requested features and the columns of the entity rows."""
        return self._metadata

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal().to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        columns = dict(zip(self._entities.column_names, self._entities.columns, strict=True))
        with ThreadPoolExecutor() as readers:
            found = readers.map(lambda part: part[0].take(part[2]), self._parts)
            for (_, names, _), values in zip(self._parts, found, strict=True):
                columns |= dict(zip(names, values.columns, strict=True))
        return pa.table(columns)


def source_path(source: DataSource, config: RepoConfig) -> Path:
    """Return the local path of a Feast file source. A relative path starts at the folder of the repository."""
    if not isinstance(source, FileSource):
        raise ValueError(f"source {source.name}: this offline store reads Parquet files, not {type(source).__name__}")
    return Path(str(config.repo_path or ".")) / str(source.path).removeprefix("file://")


class ParquetRows:
    """Reads some columns of a Parquet file, or of a folder of Parquet files, for given row numbers.

    Attributes:
        number: SQL expression for the number of a row in this table.
    """

    def __init__(self, path: Path | str, columns: Sequence[str]) -> None:
        files = parquet_files(path)
        parquets = [pq.ParquetFile(file) for file in files]
        self._groups = [(file, i) for file in parquets for i in range(file.num_row_groups)]
        lengths = [file.metadata.row_group(i).num_rows for file, i in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        before = np.cumsum([0, *(file.metadata.num_rows for file in parquets[:-1])]).tolist()
        self.relation = f"read_parquet([{', '.join(map(sql_text, files))}])"
        self.number = f"({before}[CAST(file_index + 1 AS BIGINT)] + CAST(file_row_number AS BIGINT))"
        # A file without nulls declares its columns "not null", but other files of the folder may have nulls.
        first = parquets[0].schema_arrow
        self._schema = pa.schema([pa.field(name, first.field(name).type) for name in columns])

    def take(self, numbers: pa.Array) -> pa.Table:
        """Return the rows with these numbers, in the given order. A null number gives a row of nulls."""
        present = numbers.is_valid().to_numpy(zero_copy_only=False)
        if not present.any():
            return self._schema.empty_table().take(pa.nulls(len(numbers), pa.int64()))
        wanted = numbers.fill_null(0).to_numpy()
        # A null is read with the row group of the number before it, so that ascending numbers need no sorting.
        last_present = np.maximum.accumulate(np.where(present, np.arange(len(numbers)), 0))
        group_of = np.searchsorted(self._starts, wanted[last_present], side="right") - 1
        order = np.argsort(group_of, kind="stable")
        groups, firsts = np.unique(group_of[order], return_index=True)
        pieces = []
        for group, places in zip(groups.tolist(), np.split(order, firsts[1:]), strict=True):
            file, i = self._groups[group]
            rows = file.read_row_group(i, columns=self._schema.names).select(self._schema.names).cast(self._schema)
            pieces.append(rows.take(pa.array(wanted[places] - self._starts[group], mask=~present[places])))
        found = pa.concat_tables(pieces).combine_chunks()
        return found if (np.diff(order) == 1).all() else found.take(np.argsort(order, kind="stable"))
