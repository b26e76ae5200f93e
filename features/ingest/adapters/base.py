"""What an adapter is: it knows one file layout, renames and folds, and judges nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import ibis

from features.engine import Engine
from features.ingest.adapters import files
from features.ingest.adapters.values import given, text
from mtorl.log.dataset import DatasetSpec

SAME = "#same"  # optional column of `Adapter.adapt`: tells touchpoints of a user at the same time apart


class Adapter(ABC):
    """Knows one file layout.

    Attributes:
        source: What the file calls a canonical column, where it has another name.
        never_context: Columns of the file that can't be context, and why.
    """

    source: ClassVar[Mapping[str, str]] = {}
    never_context: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Columns that the log file must have."""

    def read(self, engine: Engine, path: Path, spec: DatasetSpec, scratch: Path) -> ibis.Table:
        """The file as it is: columns by their names in the file, text where it is CSV, and `files.ROW`.

        Args:
            engine: Where the table lives.
            path: A file, or a folder of Parquet parts.
            spec: Description of the data set.
            scratch: Folder that lives as long as the table.

        Raises:
            LogError: the file is missing, empty, not readable or has other columns.
        """
        parts = files.parts(path)
        names = files.columns(parts[0])
        files.check_columns(path, names, self.required(spec), spec)
        return files.table(engine, parts, names, scratch)

    @abstractmethod
    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """`files.ROW` and the columns of `spec.columns`, in any type, unjudged.

        Values that may be faulty stay as they are in the file, and one that can't be made out becomes null. Further
        columns are `created_timestamp` where the file has it, and `SAME`.
        """


def lay_out(raw: ibis.Table, spec: DatasetSpec, columns: Mapping[str, ibis.Value]) -> ibis.Table:
    """The canonical columns: from `columns`, else those of the same name in the file."""
    named = {name: columns[name] if name in columns else raw[name] for name in spec.columns}
    further = {name: columns[name] for name in ("created_timestamp", SAME) if name in columns}
    return raw.select(files.ROW, **named, **further)


def attributes(spec: DatasetSpec, *derived: str) -> tuple[str, ...]:
    """Context, static and further outcome columns, besides those that the adapter derives."""
    columns = (*spec.context, *spec.static, *spec.outcomes)
    return tuple(c.name for c in columns if c.name not in derived)


def without(value: ibis.Value, mark: int) -> ibis.Value:
    """Null where the file has a number that means missing."""
    return value.nullif(str(mark)) if value.type().is_string() else value.nullif(mark)


def one_hot(raw: ibis.Table, names: Sequence[str]) -> tuple[ibis.Value, ibis.Value]:
    """The name of the one column that is 1 (null where none or several are), and how many are."""
    flags = [_is_set(raw[name]) for name in names]
    count = sum((flag.cast("int64") for flag in flags), start=ibis.literal(0))
    chosen = ibis.cases(*zip(flags, names, strict=True), else_=ibis.null("string"))
    return ibis.ifelse(count == 1, chosen, ibis.null("string")), count


def one_hot_or_count(raw: ibis.Table, names: Sequence[str]) -> ibis.Value:
    """As `one_hot`; where it fails, words that no channel has and that say what is wrong."""
    chosen, count = one_hot(raw, names)
    return ibis.coalesce(chosen, count.cast("string") + f" of {len(names)} one-hot columns set")


def whole(value: ibis.Value) -> ibis.Value:
    """Text of an id that a writer may have turned into a float: "2.0" is "2"."""
    return text(value).re_replace(r"\.0$", "")


def _is_set(value: ibis.Value) -> ibis.Value:
    if value.type().is_string():
        return value.isin(["1", "1.0", "True", "true"]).fill_null(False)
    return (given(value) & (value == (True if value.type().is_boolean() else 1))).fill_null(False)
