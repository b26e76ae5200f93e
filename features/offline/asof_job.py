"""The answer of a point-in-time join: columns of Parquet files, each row group read once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FileSource, OnDemandFeatureView
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.repo_config import RepoConfig

from features.engine import parquet_files, text


class AsofRetrievalJob(RetrievalJob):
    """The answer of one call of `get_historical_features`, or of a pull: `entities` stand first in it.

    Args:
        parts: Of each view: its rows, the names of its columns in the answer, and the row for each row of the answer.
        on_demand: On-demand views, which Feast computes last.
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
        """Whether features are called "view__feature"."""
        return self._full

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views to compute from the answer."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features and entity columns of the call."""
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
    """The local path of a file source; a relative one starts at the repository."""
    if not isinstance(source, FileSource):
        raise ValueError(f"source {source.name}: this offline store reads Parquet files, not {type(source).__name__}")
    return Path(str(config.repo_path or ".")) / str(source.path).removeprefix("file://")


class ParquetRows:
    """Some columns of one Parquet file, or of a folder of parts with the same schema.

    `relation` are the files as DuckDB reads them, and `number` is a row's number as an expression over it.
    """

    def __init__(self, path: Path | str, columns: Sequence[str]) -> None:
        files = parquet_files(path)
        parquets = [pq.ParquetFile(file) for file in files]
        self._groups = [(file, i) for file in parquets for i in range(file.num_row_groups)]
        lengths = [file.metadata.row_group(i).num_rows for file, i in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        before = np.cumsum([0, *(file.metadata.num_rows for file in parquets[:-1])]).tolist()
        self.relation = f"read_parquet([{', '.join(map(text, files))}])"
        self.number = f"({before}[CAST(file_index + 1 AS BIGINT)] + CAST(file_row_number AS BIGINT))"
        # DuckDB writes "not null" into the schema of a part that happens to have no nulls; another part may have some.
        first = parquets[0].schema_arrow
        self._schema = pa.schema([pa.field(name, first.field(name).type) for name in columns])

    def take(self, numbers: pa.Array) -> pa.Table:
        """Rows by number, in the order asked for; a null number is a row of nulls.

        No more than one row group is in memory besides the answer. If the numbers ascend, nothing is sorted.
        """
        present = numbers.is_valid().to_numpy(zero_copy_only=False)
        if not present.any():
            return self._schema.empty_table().take(pa.nulls(len(numbers), pa.int64()))
        wanted = numbers.fill_null(0).to_numpy()
        # A null counts to the row group of the row before it, so rows that are in order need not be sorted.
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
