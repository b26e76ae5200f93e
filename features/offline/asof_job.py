"""The answer of a point-in-time join, built a piece at a time, so wide columns never exist all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FileSource, OnDemandFeatureView
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.repo_config import RepoConfig
from feast.type_map import feast_value_type_to_pa

from features.engine import parquet_files, text
from mtorl.runtime import progress
from mtorl.runtime.files import replacing

_CHUNK = 32_768  # rows of the answer in a piece


class AsofRetrievalJob(RetrievalJob):
    """The answer of one call of `get_historical_features`, or of a pull: `entities` stand first in it.

    Args:
        parts: Of each view: its rows, the names of its columns in the answer, and the row for each row of the answer.
        on_demand: On-demand views to compute; they come last.
    """

    def __init__(
        self,
        entities: pa.Table,
        parts: Sequence[tuple[ParquetRows, Sequence[str], pa.Int64Array]],
        on_demand: Sequence[OnDemandFeatureView],
        full_feature_names: bool,
        metadata: RetrievalMetadata | None,
    ) -> None:
        super().__init__()
        self._entities = entities
        self._parts = list(parts)
        self._on_demand = list(on_demand)
        self._full = full_feature_names
        self._metadata = metadata
        self._length = len(parts[0][2]) if parts else entities.num_rows

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called "view__feature"."""
        return self._full

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """No views: each piece of the answer has its on-demand features already."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features and entity columns of the call."""
        return self._metadata

    def pieces(self) -> Iterator[pa.Table]:
        """The answer in pieces; needs little memory if the entity rows are sorted as the sources are."""
        yield from self._pieces(np.arange(self._length))

    def to_parquet(self, path: Path | str) -> None:
        """Write the answer without ever holding all of it; an earlier file is replaced in one step."""
        with replacing(Path(path)) as temporary:
            writer = None
            try:
                for piece in self.pieces():
                    writer = writer or pq.ParquetWriter(
                        temporary, piece.schema, compression="zstd", compression_level=1
                    )
                    writer.write_table(piece)
            finally:
                if writer:
                    writer.close()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal().to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        order = self._reading_order()
        if order is None:
            return pa.concat_tables(self.pieces())
        return pa.concat_tables(self._pieces(order)).take(np.argsort(order))

    def _reading_order(self) -> np.ndarray | None:
        """The answer's rows in the order of the widest source, so that it is read once; None if they already are."""
        if not self._parts or self._length <= _CHUNK:
            return None
        numbers = max(self._parts, key=lambda part: part[0].size)[2]
        place = np.maximum.accumulate(pc.fill_null(numbers, -1).to_numpy())
        valid = pc.is_valid(numbers).to_numpy(zero_copy_only=False)
        if (place[valid] == numbers.drop_null().to_numpy()).all():
            return None
        return np.argsort(pc.fill_null(numbers, -1).to_numpy(), kind="stable")

    def _pieces(self, order: np.ndarray) -> Iterator[pa.Table]:
        """Rows of the answer, piece by piece; the next one is read while on-demand features are computed."""
        chunks = [order[start : start + _CHUNK] for start in range(0, max(self._length, 1), _CHUNK)]
        with ThreadPoolExecutor() as readers:

            def read(places: np.ndarray) -> list[Future[pa.Table]]:
                wanted = pa.array(places)
                return [readers.submit(rows.take, numbers.take(wanted)) for rows, _, numbers in self._parts]

            ahead = read(chunks[0])
            for number, (places, following) in enumerate(zip_longest(chunks, chunks[1:])):
                progress.within(number / len(chunks))
                columns = [part.result() for part in ahead]
                if following is not None:
                    ahead = read(following)  # not earlier: a part reads one piece after the other
                yield self._piece(places, columns)

    def _piece(self, places: np.ndarray, parts: Sequence[pa.Table]) -> pa.Table:
        piece = self._entities.take(places) if self._entities.num_columns else None
        columns = dict(zip(piece.column_names, piece.columns, strict=True)) if piece else {}
        for (_, names, _), values in zip(self._parts, parts, strict=True):
            columns |= dict(zip(names, values.columns, strict=True))
        for view in self._on_demand:
            columns |= self._computed(view, columns)
        return pa.table(columns)

    def _computed(self, view: OnDemandFeatureView, columns: Mapping[str, Any]) -> dict[str, Any]:
        prefix = view.projection.name_to_use()
        wanted = [f for f in view.features if self._metadata and f"{prefix}:{f.name}" in self._metadata.features]
        called = {f.name: f"{prefix}__{f.name}" if self._full else f.name for f in wanted}
        if view.mode == "python" and not view.singleton:
            # Called as the online store calls it. Lists stay NumPy arrays, because Python objects are slow.
            inputs = {name: _values(columns[name]) for name in _inputs(view, self._full)}
            values = view.transform_dict(inputs)
            kinds = {f.name: feast_value_type_to_pa(f.dtype.to_value_type()) for f in wanted}
            return {called[name]: pa.array(values[name], kind) for name, kind in kinds.items()}
        values = view.transform_arrow(pa.table(dict(columns)), self._full)
        return {name: values[name] for name in called.values()}


def _inputs(view: OnDemandFeatureView, full: bool) -> list[str]:
    projections = view.source_feature_view_projections.values()
    stored = [(p.name_to_use(), feature.name) for p in projections for feature in p.features]
    return [f"{prefix}__{name}" if full else name for prefix, name in stored] + list(view.get_request_data_schema())


def _values(column: Any) -> list[Any]:
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    return list(column.to_numpy(zero_copy_only=False)) if nested else column.to_pylist()


def source_path(source: DataSource, config: RepoConfig) -> Path:
    """The local path of a file source; a relative one starts at the repository."""
    if not isinstance(source, FileSource):
        raise ValueError(f"source {source.name}: this offline store reads Parquet files, not {type(source).__name__}")
    return Path(str(config.repo_path or ".")) / str(source.path).removeprefix("file://")


class ParquetRows:
    """Some columns of one Parquet file, or of a folder of parts with the same schema.

    `relation` are the files as DuckDB reads them, `number` is a row's number as an expression over it, `size` counts
    bytes.
    """

    def __init__(self, path: Path | str, columns: Sequence[str]) -> None:
        files = parquet_files(path)
        self._files = [pq.ParquetFile(file) for file in files]
        self._columns = list(columns)
        self._groups = [(file, i) for file in self._files for i in range(file.num_row_groups)]
        lengths = [file.metadata.row_group(i).num_rows for file, i in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._held: dict[int, pa.Table] = {}
        before = np.cumsum([0, *(file.metadata.num_rows for file in self._files[:-1])]).tolist()
        self.relation = f"read_parquet([{', '.join(map(text, files))}])"
        self.number = f"({before}[CAST(file_index + 1 AS BIGINT)] + CAST(file_row_number AS BIGINT))"
        self.size = sum(file.stat().st_size for file in files)
        # DuckDB writes "not null" into the schema of a part that happens to have no nulls; another part may have some.
        first = self._files[0].schema_arrow
        self.schema = pa.schema([pa.field(name, first.field(name).type) for name in columns])

    def take(self, numbers: pa.Array) -> pa.Table:
        """Rows by number, in the order asked for; a null number is a row of nulls.

        The row groups that were needed stay in memory until the next call, so rows that lie near each other are cheap.
        """
        present = numbers.is_valid().to_numpy(zero_copy_only=False)
        wanted = numbers.fill_null(0).to_numpy()
        group_of = np.searchsorted(self._starts, wanted, side="right") - 1
        groups = np.unique(group_of[present]).tolist()
        self._held = {group: self._held[group] if group in self._held else self._read(group) for group in groups}
        if not groups:
            return self.schema.empty_table().take(pa.nulls(len(numbers), pa.int64()))
        # A null counts to the row group of the row before it, so rows that are in order need not be sorted.
        last_present = np.maximum.accumulate(np.where(present, np.arange(len(numbers)), 0))
        group_of = np.where(present[last_present], group_of[last_present], groups[0])
        order = np.argsort(group_of, kind="stable")
        ends = np.searchsorted(group_of[order], groups, side="right").tolist()
        pieces = []
        for group, first, last in zip(groups, [0, *ends], ends, strict=False):
            places = order[first:last]
            numbers_in_group = pa.array(wanted[places] - self._starts[group], mask=~present[places])
            pieces.append(self._held[group].take(numbers_in_group))
        rows = pa.concat_tables(pieces).combine_chunks()
        return rows if (np.diff(order) == 1).all() else rows.take(np.argsort(order, kind="stable"))

    def _read(self, group: int) -> pa.Table:
        file, i = self._groups[group]
        return file.read_row_group(i, columns=self._columns).select(self._columns).cast(self.schema)
