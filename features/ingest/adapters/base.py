"""The interface of an adapter, and functions shared by all adapters.

An adapter knows one file layout. It renames and combines columns, but does not check values. A value that its column's
type can't represent becomes null, and the data contract decides later whether that is a fault.
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
"""Optional column of `Adapter.adapt`: rows of a user at the same time are one touchpoint only if it is equal."""

OUTCOME, CHANNEL = "an outcome, known only after the exposure", "the channel itself"
"""Why a column of a file can't be context."""


class Adapter:
    """The adapter of the canonical layout, with the description's names and units; a subclass has its own layout."""

    source: ClassVar[Mapping[str, str]] = {}  # result of `called`, in a subclass
    never_context: ClassVar[Mapping[str, str]] = {}  # columns of the file that can't be context, and why

    def called(self, spec: DatasetSpec) -> Mapping[str, str]:
        """Return the file's names for canonical columns that have another name in the file."""
        return self.source or {name: own.column for name, own in spec.columns.items() if own.column is not None}

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Return the columns that the log file must have, by the file's names; the propensity only if it is logged."""
        elsewhere = {name for name, source in spec.columns.items() if source.value is not None}
        elsewhere |= {*_later(spec), *map(outcome_time, _later(spec))}
        by_id = [TOUCHPOINT_ID] * (TOUCHPOINT_ID in spec.optional_columns)
        canonical = [*spec.log_columns, *spec.outcome_times.values(), *by_id, *spec.columns]
        needed = (name for name in canonical if name not in elsewhere)
        needed = (c for c in needed if c != "propensity" or c in spec.columns or spec.propensity == "logged")
        return tuple(dict.fromkeys(self.called(spec).get(name, name) for name in needed))

    def read(self, engine: Engine, path: Path, spec: DatasetSpec, scratch: Path) -> ibis.Table:
        """Read a log file without changes: the file's column names, text for CSV and JSON, and `files.ROW`.

        The table is valid until the engine is closed or the folder `scratch` is deleted.
        """
        parts = files.parts(path)
        names = files.columns_of(path, parts, spec.file.separator)
        files.check_columns(path, names, self.required(spec), spec)
        return files.table(engine, parts, names, scratch, spec.file.separator)

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Map the file's columns to `files.ROW` and the columns of `spec.log_columns`, in any type, without checks.

        A faulty value stays as it is in the file, and an absent propensity is null. The result also has `SAME`, and the
        columns of `spec.optional_columns` that the file has.
        """
        times = {*map(outcome_time, _later(spec))}
        there = [name for name in (*spec.log_columns, *spec.optional_columns) if name in raw.columns]
        sources = {name: Source.model_validate({"column": name}) for name in there if name not in times} | spec.columns
        columns = {
            name: value_of(raw, source, spec.file.decimal if name in spec.numbers else ".")
            for name, source in sources.items()
        }
        if columns["channel"].type().is_string():  # the description's channels have no leading or trailing spaces
            columns["channel"] = columns["channel"].strip()
        columns |= dict.fromkeys(_later(spec), ibis.literal(0.0))  # replaced when the second file is read
        return lay_out(raw, spec, columns)


def lay_out(raw: ibis.Table, spec: DatasetSpec, columns: Mapping[str, ibis.Value]) -> ibis.Table:
    """Return the canonical columns, from `columns` or else from the file; an absent propensity becomes null."""
    if "propensity" not in raw.columns:
        columns = {"propensity": ibis.null("float64"), **columns}
    named = {name: columns[name] if name in columns else raw[name] for name in spec.log_columns}
    further = {name: columns[name] for name in (*spec.optional_columns, SAME) if name in columns}
    return raw.select(files.ROW, **named, **further)


def attributes(spec: DatasetSpec, *derived: str) -> tuple[str, ...]:
    """Return the names of context, static and further outcome columns, except those that the adapter derives."""
    columns = (*spec.context, *spec.static, *spec.outcomes)
    return tuple(c.name for c in columns if c.name not in derived)


def _later(spec: DatasetSpec) -> tuple[str, ...]:
    """Return the outcomes that are in a second file."""
    return spec.conversions.outcomes if spec.conversions else ()


def one_hot(raw: ibis.Table, names: Sequence[str]) -> tuple[ibis.Value, ibis.Value]:
    """Return the name of the column that is 1 (null unless exactly one is), and the number of columns that are 1."""
    flags = [(number(raw[name]) == 1).fill_null(False) for name in names]
    count = sum((flag.cast("int64") for flag in flags), start=ibis.literal(0))
    chosen = ibis.cases(*zip(flags, names, strict=True), else_=ibis.null("string"))
    return ibis.ifelse(count == 1, chosen, ibis.null("string")), count


def one_hot_text(raw: ibis.Table, names: Sequence[str]) -> ibis.Value:
    """Return the name of the column that is 1; unless exactly one is, a text that describes the fault."""
    chosen, count = one_hot(raw, names)
    return ibis.coalesce(chosen, count.cast("string") + f" of {len(names)} one-hot columns set")
