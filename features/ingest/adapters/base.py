"""The interface of an adapter, and functions that all adapters share."""

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
"""Name of an optional column in the result of `Adapter.adapt`. If a user has several rows with the same time, only rows
with the same value in this column are one touchpoint."""

OUTCOME, CHANNEL = "an outcome, known only after the exposure", "the channel itself"
"""Reasons why a column of a file can't be a context column."""


class Adapter:
    """Adapter for a file whose column names and units are given in the data set description.

    Attributes:
        source: Maps canonical columns to their names in the file, where these differ.
        never_context: Columns of the file that must not be context columns, each with the reason.
    """

    source: ClassVar[Mapping[str, str]] = {}
    never_context: ClassVar[Mapping[str, str]] = {}

    def called(self, spec: DatasetSpec) -> Mapping[str, str]:
        """Return a mapping of canonical columns to their names in the file, where these differ."""
        return self.source or {name: own.column for name, own in spec.columns.items() if own.column is not None}

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Return the names of the columns that a log file must have."""
        elsewhere = {name for name, source in spec.columns.items() if source.value is not None}
        elsewhere |= {*_later(spec), *map(outcome_time, _later(spec))}
        by_id = [TOUCHPOINT_ID] * (TOUCHPOINT_ID in spec.optional_columns)
        canonical = [*spec.log_columns, *spec.outcome_times.values(), *by_id, *spec.columns]
        needed = (name for name in canonical if name not in elsewhere)
        needed = (c for c in needed if c != "propensity" or c in spec.columns or spec.propensity == "logged")
        return tuple(dict.fromkeys(self.called(spec).get(name, name) for name in needed))

    def read(self, engine: Engine, path: Path, spec: DatasetSpec, scratch: Path) -> ibis.Table:
        """Read a log file with its own column names, and number its rows in the column `files.ROW`.

        Values of CSV and JSON files are text.
        """
        parts = files.parts(path)
        names = files.columns_of(path, parts, spec.file.separator)
        files.check_columns(path, names, self.required(spec), spec)
        return files.table(engine, parts, names, scratch, spec.file.separator)

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Return a table with `files.ROW` and the columns of `spec.log_columns`. Faulty values remain."""
        times = {*map(outcome_time, _later(spec))}
        there = [name for name in (*spec.log_columns, *spec.optional_columns) if name in raw.columns]
        sources = {name: Source.model_validate({"column": name}) for name in there if name not in times} | spec.columns
        columns = {
            name: value_of(raw, source, spec.file.decimal if name in spec.numbers else ".")
            for name, source in sources.items()
        }
        # Channel names in the description have no spaces at either end.
        if columns["channel"].type().is_string():
            columns["channel"] = columns["channel"].strip()
        # Outcomes of a second file are 0 until that file has been read.
        columns |= dict.fromkeys(_later(spec), ibis.literal(0.0))
        return lay_out(raw, spec, columns)


def lay_out(raw: ibis.Table, spec: DatasetSpec, columns: Mapping[str, ibis.Value]) -> ibis.Table:
    """Return a table of the canonical columns, from `columns` or else from the file."""
    if "propensity" not in raw.columns:
        columns = {"propensity": ibis.null("float64"), **columns}
    named = {name: columns[name] if name in columns else raw[name] for name in spec.log_columns}
    further = {name: columns[name] for name in (*spec.optional_columns, SAME) if name in columns}
    return raw.select(files.ROW, **named, **further)


def attributes(spec: DatasetSpec, *derived: str) -> tuple[str, ...]:
    """Return the context, static and additional outcome columns, except those in `derived`."""
    columns = (*spec.context, *spec.static, *spec.outcomes)
    return tuple(c.name for c in columns if c.name not in derived)


def _later(spec: DatasetSpec) -> tuple[str, ...]:
    return spec.conversions.outcomes if spec.conversions else ()


def one_hot(raw: ibis.Table, names: Sequence[str]) -> tuple[ibis.Value, ibis.Value]:
    """Return the name of the one-hot column that is 1, or null unless exactly one is 1, and the number of ones."""
    flags = [(number(raw[name]) == 1).fill_null(False) for name in names]
    count = sum((flag.cast("int64") for flag in flags), start=ibis.literal(0))
    chosen = ibis.cases(*zip(flags, names, strict=True), else_=ibis.null("string"))
    return ibis.ifelse(count == 1, chosen, ibis.null("string")), count


def one_hot_text(raw: ibis.Table, names: Sequence[str]) -> ibis.Value:
    """Return the name of the one-hot column that is 1, or a fault such as "2 of 3 one-hot columns set"."""
    chosen, count = one_hot(raw, names)
    return ibis.coalesce(chosen, count.cast("string") + f" of {len(names)} one-hot columns set")
