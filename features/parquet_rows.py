"""Rows of Parquet files by number: a join needs keys and times alone, wide columns are read once and when needed.

    rows = ParquetRows("user_history.parquet", ["hist_channel", "hist_cost"])
    con.sql(f"SELECT user_id, {rows.number} AS row FROM {rows.relation}")     # any query over the narrow columns
    rows.take(pa.array([7, 3, None]))                                         # those rows, in that order; null = nulls

A row's number is its place in all files one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def parquet_files(path: Path | str) -> list[Path]:
    """A Parquet file as a list, or the parts in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    # An interrupted write leaves files beside its parts, such as _temporary/... or .part-0.parquet.
    parts = (p for p in path.rglob("*.parquet") if p.is_file())
    whole = [p for p in parts if not any(name.startswith(("_", ".")) for name in p.relative_to(path).parts)]
    files = sorted(whole) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise FileNotFoundError(f"{path}: no Parquet file, nor a folder with parts")
    return files


def text_literal(text: str) -> str:
    """A text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


class ParquetRows:
    """Some columns of one or several Parquet files with the same schema.

    Args:
        path: A file, or a folder of parts.
        columns: Columns that `take` returns.

    Attributes:
        relation: The files as DuckDB reads them, all columns.
        number: A row's number as an expression over `relation`.
        size: Bytes of all files, which says how expensive it is to read everything.
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
        self.relation = f"read_parquet([{', '.join(text_literal(str(file)) for file in files)}])"
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
