"""The interface of an adapter, and functions for all adapters.

An adapter knows one file layout. It renames columns and combines several into one; it judges nothing. A value that
can't be read in its column's type becomes null, and the data contract decides later whether that is a fault.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import ibis

from features.engine import Engine
from features.ingest.adapters import files
from features.ingest.adapters.values import number, value_of
from mtorl.log.dataset import DatasetSpec, outcome_time
from mtorl.log.sources import TOUCHPOINT_ID, Source

SAME = "#same"
"""Optional column of `Adapter.adapt`: rows of a user at the same time are one touchpoint if it is equal, too."""

OUTCOME, CHANNEL = "an outcome, known only after the exposure", "the channel itself"
"""Why a column of a file can't be context."""


class Adapter:
    """Knows one file layout: this one the canonical one by the description's names and units, a subclass another."""

    source: ClassVar[Mapping[str, str]] = {}  # a subclass's `called`
    never_context: ClassVar[Mapping[str, str]] = {}  # columns of the file that can't be context, and why

    def called(self, spec: DatasetSpec) -> Mapping[str, str]:
        """Names in the file of canonical columns that have another name there."""
        return self.source or {name: own.column for name, own in spec.columns.items() if own.column is not None}

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Columns that the log file must have, by its own names; the propensity only if it is logged."""
        elsewhere = {name for name, source in spec.columns.items() if source.value is not None}
        elsewhere |= {*_later(spec), *map(outcome_time, _later(spec))}
        by_id = [TOUCHPOINT_ID] * (TOUCHPOINT_ID in spec.optional_columns)
        canonical = [*spec.log_columns, *spec.outcome_times.values(), *by_id, *spec.columns]
        needed = (name for name in canonical if name not in elsewhere)
        needed = (c for c in needed if c != "propensity" or c in spec.columns or spec.propensity == "logged")
        return tuple(dict.fromkeys(self.called(spec).get(name, name) for name in needed))

    def read(self, engine: Engine, path: Path, spec: DatasetSpec, scratch: Path) -> ibis.Table:
        """Read a log file as it is: columns by their names in the file, text where it is CSV or JSON, and `files.ROW`.

        The table needs the engine and the folder `scratch`.
        """
        parts = files.parts(path)
        names = files.columns_of(path, parts, spec.file.separator)
        files.check_columns(path, names, self.required(spec), spec)
        return files.table(engine, parts, names, scratch, spec.file.separator)

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Turn the file's columns into `files.ROW` and the columns of `spec.log_columns`, in any type, unjudged.

        A faulty value stays as it is in the file; an absent propensity is null. Further columns are those of
        `spec.optional_columns` that the file has, and `SAME`.
        """
        times = {*map(outcome_time, _later(spec))}
        there = [name for name in (*spec.log_columns, *spec.optional_columns) if name in raw.columns]
        sources = {name: Source.model_validate({"column": name}) for name in there if name not in times} | spec.columns
        columns = {
            name: value_of(raw, source, spec.file.decimal if name in spec.numbers else ".")
            for name, source in sources.items()
        }
        if columns["channel"].type().is_string():  # the description's channels have no outer spaces
            columns["channel"] = columns["channel"].strip()
        columns |= dict.fromkeys(_later(spec), ibis.literal(0.0))  # until the conversions are read
        return lay_out(raw, spec, columns)


def lay_out(raw: ibis.Table, spec: DatasetSpec, columns: Mapping[str, ibis.Value]) -> ibis.Table:
    """The canonical columns: from `columns`, else those of the same name in the file; a propensity may be absent."""
    if "propensity" not in raw.columns:
        columns = {"propensity": ibis.null("float64"), **columns}
    named = {name: columns[name] if name in columns else raw[name] for name in spec.log_columns}
    further = {name: columns[name] for name in (*spec.optional_columns, SAME) if name in columns}
    return raw.select(files.ROW, **named, **further)


def attributes(spec: DatasetSpec, *derived: str) -> tuple[str, ...]:
    """Context, static and further outcome columns, besides those that the adapter derives."""
    columns = (*spec.context, *spec.static, *spec.outcomes)
    return tuple(c.name for c in columns if c.name not in derived)


def _later(spec: DatasetSpec) -> tuple[str, ...]:
    """The outcomes that a second file has."""
    return spec.conversions.outcomes if spec.conversions else ()


def one_hot(raw: ibis.Table, names: Sequence[str]) -> tuple[ibis.Value, ibis.Value]:
    """The name of the one column that is 1 (null where none or several are), and how many are 1."""
    flags = [(number(raw[name]) == 1).fill_null(False) for name in names]
    count = sum((flag.cast("int64") for flag in flags), start=ibis.literal(0))
    chosen = ibis.cases(*zip(flags, names, strict=True), else_=ibis.null("string"))
    return ibis.ifelse(count == 1, chosen, ibis.null("string")), count


def one_hot_text(raw: ibis.Table, names: Sequence[str]) -> ibis.Value:
    """Like `one_hot`; unless exactly one is 1, a text that names the fault and is no channel's name."""
    chosen, count = one_hot(raw, names)
    return ibis.coalesce(chosen, count.cast("string") + f" of {len(names)} one-hot columns set")
