"""The rules that each touchpoint of a log must satisfy, and functions that find the rows that break them.

If a value breaks several rules, only the first of them is reported.
"""

import datetime
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import NamedTuple

import ibis

from features.engine import timestamp_micros, unix_micros
from features.ingest.adapters import values
from features.ingest.adapters.base import SAME
from features.ingest.adapters.files import ROW
from features.sequences.builder import SAME_TOUCHPOINT, strictly_increasing
from mtorl.log.dataset import EVENTS, Column, DatasetSpec, outcome_time
from mtorl.log.sources import TOUCHPOINT_ID, Conversions, Source
from mtorl.log.touchpoints import CREATED

# Largest plausible cost of one exposure, in currency units. With this limit, the sum of all costs fits in 64 bits.
_MOST_COST = 1e15
# Prefix of a column that is true if the file has a value.
_PRESENT = "present:"
# Prefix of a column with the number of the rule that a value breaks, or 0.
_CODE = "broken:"

MEANING = {
    "missing_value": "without a value",
    "not_a_number": "without a finite number",
    "unparsable_timestamp": "with an unparsable timestamp",
    "outcome_before_touchpoint": "with an outcome known before the exposure",
    "outcome_without_time": "with an outcome, but no time when it became known",
    "unknown_channel": "with an unknown channel",
    "negative_cost": "with a negative cost",
    "huge_cost": "with an implausible cost",
    "not_binary": "with a value other than 0 and 1",
    "propensity_out_of_range": "with a propensity outside (0, 1]",
    "duplicate_touchpoint": "repeating an earlier touchpoint (same user, time, campaign and channel)",
    "changing_static": "with a static value that differs from the user's first value",
    "single_touchpoint": "of users with too few touchpoints",
}


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one column, with the number of faulty rows and an example.

    Attributes:
        rule: The broken rule, as a key of `MEANING`.
        row: Row number of the example, from 1.
    """

    rule: str
    column: str
    count: int
    example: str
    row: int
    hint: str = ""
    file: str = ""

    def __str__(self) -> str:
        rows = "1 row" if self.count == 1 else f"{self.count:,} rows"
        example = f"{self.example} (row {self.row})" if self.example else f"row {self.row}"
        where = f"{self.file}: column {self.column!r}" if self.file else f"column {self.column!r}"
        return f"{where}: {rows} {MEANING[self.rule]}, e.g. {example}{self.hint}"


Suspects = Callable[[ibis.Table], ibis.Table]
"""Type of a function that finds suspect rows for an expensive rule: by a cheap aggregation of all rows, it returns the
keys of the rows that may break the rule. Only these rows are then checked."""


class Rule(NamedTuple):
    """A condition that the values of one column must satisfy.

    Attributes:
        holds: Function that returns the condition, true or false and never null, for each row of a table.
    """

    fault: str
    column: str
    holds: Callable[[ibis.Table], ibis.Value]
    hint: str = ""


@dataclass(frozen=True)
class Stage:
    """Rules that are checked together. A row that breaks a rule of one stage is not checked in later stages.

    Attributes:
        checked: The rules. Rules of the same column must be next to each other.
        suspects: Function that returns the keys of the rows to check. None means that all rows are checked.
    """

    checked: tuple[Rule, ...]
    suspects: Suspects | None = None

    def rules(self) -> list[tuple[str, list[Rule]]]:
        """Return each column with its rules, in the order in which they are checked."""
        return [(name, list(rules)) for name, rules in groupby(self.checked, lambda rule: rule.column)]


@dataclass(frozen=True)
class Cells:
    """The raw and adapted values of a file, from which faults and their examples are described.

    Attributes:
        called: Maps columns of `adapted` to their names in the file.
    """

    raw: ibis.Table
    adapted: ibis.Table
    called: Mapping[str, str]
    file: str = ""

    def faults(self, stage: Stage, rows: ibis.Table) -> Iterator[Fault]:
        """Yield a fault for each broken rule, with the number of rows that break it and the first such row.

        Args:
            rows: The result of `broken` for this stage.
        """
        kinds = [(name, place, rule) for name, rules in stage.rules() for place, rule in enumerate(rules, 1)]
        figures = {}
        for i, (name, place, _) in enumerate(kinds):
            figures[f"count{i}"] = (rows[name] == place).sum()
            figures[f"first{i}"] = rows[ROW].min(where=rows[name] == place)
        totals = rows.agg(**figures).to_pyarrow().to_pylist()[0]
        for i, (name, _, rule) in enumerate(kinds):
            if count := totals[f"count{i}"]:
                row = totals[f"first{i}"]
                example = "" if rule.fault == "missing_value" else self._value(name, row)
                yield Fault(rule.fault, self.called.get(name, name), count, example, row, rule.hint, self.file)

    def in_words(self, stage: Stage, rows: ibis.Table) -> ibis.Table:
        """Return a table with `ROW` and a text that names the faults of this row for the quarantine file."""
        words = []
        for name, rules in stage.rules():
            own = self.called.get(name, name)
            places = ((rows[name] == place, f"{rule.fault} ({own}); ") for place, rule in enumerate(rules, 1))
            words.append(ibis.cases(*places, else_=""))
        text = reduce(lambda a, b: a + b, words)
        return rows.select(ROW, **{"#mark": text.left(text.length() - 2)})

    def _value(self, name: str, row: int) -> str:
        """Return a value as it is in the file, or the adapted value if the file has no such column."""
        own = self.called.get(name, name)
        table, column = (self.raw, own) if own in self.raw.columns else (self.adapted, name)
        value = table.filter(table[ROW] == row).select(column).to_pyarrow().to_pylist()[0][column]
        if value is None:
            return ""
        return value.isoformat() if isinstance(value, datetime.date) else repr(value)


def read(adapted: ibis.Table, spec: DatasetSpec, names: Collection[str] = ()) -> ibis.Table:
    """Parse the columns that an adapter has returned: texts, numbers, times and flags.

    A value that can't be parsed becomes null. The column "present:NAME" is true if the file has a value.
    """
    columns: dict[str, ibis.Value] = {}
    numbers = spec.numbers
    zero = {c.name for c in _declared(spec) if c.missing == "zero"}
    # As a flag, "yes" becomes 1. An additional outcome may also be an amount.
    happened = {*EVENTS, *(c.name for c in spec.outcomes)}
    times = ("timestamp", *_times(spec))
    own = (*spec.log_columns, *(name for name in spec.optional_columns if name in adapted.columns))
    for name in names or own:
        value = adapted[name]
        present = values.has_value(value, name in numbers)
        if name in times:
            parsed = values.time(value)
        elif name in numbers:
            told = values.flag(value) if name in happened else values.number(value)
            parsed = ibis.ifelse(present, told, 0.0 if name in zero else ibis.null("float64"))
        else:
            parsed = values.text(value)
        columns |= {name: parsed, _PRESENT + name: present}
    further = [SAME] if SAME in adapted.columns else []
    return adapted.select(ROW, *further, **columns)


def canonical(table: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Return the columns of the canonical log. The rows of `table` must have broken no rule."""
    whole = {name: table[name].cast("int64") for name in ("click", "conversion")}
    times = [name for name in _times(spec) if name in table.columns]
    # A touchpoint that was moved by some microseconds may now be later than its outcome.
    not_before = {
        name: ibis.ifelse(table[name] < table["timestamp"], table["timestamp"], table[name])
        for name in times
        if name != CREATED
    }
    return table.mutate(**whole, **not_before).select(*spec.log_columns, *times)


def stages(spec: DatasetSpec, optional: Collection[str]) -> tuple[Stage, ...]:
    """Return all rules of a data set: first for single values, then for the rows of a user."""
    static = [c.name for c in spec.static]
    once = Rule("duplicate_touchpoint", "timestamp", _is_first)
    out = [Stage(tuple(_cells(spec, optional))), Stage((once,), same_times)]

    def users(table: ibis.Table) -> ibis.Table:
        return _uneven_users(table, static, spec.min_touchpoints)

    if static:
        out.append(Stage(tuple(map(_unchanging, static)), users))
    if spec.min_touchpoints > 1:
        out.append(Stage((_enough(spec.min_touchpoints),), users))
    return tuple(out)


def of_conversions(told: Conversions) -> Stage:
    """Return the rules for the rows of a second file with outcomes, such as a file of conversions."""
    rules, mark = [_time("timestamp", told.columns)], told.file.decimal
    for name in told.outcomes:
        rules += _flag(name, mark) if name in EVENTS else [_present(name), _number(name, mark)]
    return Stage(tuple(rules))


def judge(table: ibis.Table, stage: Stage) -> ibis.Table:
    """Check the rules of a stage. Adds a column "broken:NAME" for each column that has rules.

    The new column is 0 if all rules hold. Otherwise it is the position of the first broken rule, counted from 1.
    """
    codes = {}
    for name, rules in stage.rules():
        passed = [rule.holds(table) for rule in rules]
        codes[_CODE + name] = ibis.cases(*((~ok, place) for place, ok in enumerate(passed, 1)), else_=0).cast("int8")
    further = [name for name in table.columns if not name.startswith((_PRESENT, _CODE))]
    return table.select(*further, **codes)


def is_broken(judged: ibis.Table, stage: Stage) -> ibis.Value:
    """Return a condition that is true if a row of `judge` breaks any rule of the stage."""
    return ibis.or_(*(judged[_CODE + name] > 0 for name, _ in stage.rules()))


def broken(judged: ibis.Table, stage: Stage) -> ibis.Table:
    """Return the rows that break a rule of the stage.

    The result has the column `ROW`, and for each checked column the number from `judge`.
    """
    bad = judged.filter(is_broken(judged, stage))
    return bad.select(ROW, **{name: bad[_CODE + name] for name, _ in stage.rules()})


def without(table: ibis.Table, rows: ibis.Table) -> ibis.Table:
    """Return a table without the given rows."""
    return table.anti_join(rows, ROW).select(*table.columns)


def suspected(table: ibis.Table, keys: ibis.Table) -> ibis.Table:
    """Return the rows of `table` that may break a rule, given their keys (the result of `Stage.suspects`)."""
    return table.semi_join(keys, keys.columns).select(*table.columns)


def moved_ties(table: ibis.Table, keys: ibis.Table) -> ibis.Table:
    """Separate a user's touchpoints with equal times by one microsecond, in the order of the file.

    Returns:
        The column `ROW` and the new time `moved` of each row whose time changes.
    """
    rows = suspected(table, keys.select("user_id").distinct())
    rows = rows.select("user_id", ROW, at=unix_micros(rows["timestamp"]))
    order = ["at", ROW]
    rows = rows.mutate(turn=ibis.row_number().over(group_by="user_id", order_by=order))
    so_far = ibis.window(group_by="user_id", order_by=order, preceding=None, following=0)
    rows = rows.mutate(moved=strictly_increasing(rows["at"], rows["turn"], so_far))
    return rows.filter(rows["moved"] != rows["at"]).select(ROW, moved=timestamp_micros(rows["moved"]))


# ---- rules for single values; a null breaks no rule, except in a required column


def _present(column: str) -> Rule:
    return Rule("missing_value", column, lambda table: table[_PRESENT + column])


def _number(column: str, mark: str) -> Rule:
    other = "." if mark == "," else ","
    hint = f"; decimals are read with {mark!r}: write them so, or set file: {{decimal: {other!r}}} in the description"
    return Rule("not_a_number", column, lambda table: table[column].notnull() | ~table[_PRESENT + column], hint)


_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def _time(column: str, sources: Mapping[str, Source], required: bool = True) -> Rule:
    source = sources.get(column)
    if source and source.unit:
        hint = f"; expected {_UNITS[source.unit]} since 1970"
    elif source and source.format:
        hint = f"; expected {source.format}"
    else:
        own = source.column if source and source.column else column
        example = f"columns: {{{column}: {{column: {own}, format: '%d.%m.%Y %H:%M'}}}}"
        hint = f"; expected ISO 8601, such as 2024-01-31T12:00:00Z. Or set another format in the description: {example}"

    def holds(table: ibis.Table) -> ibis.Value:
        return table[column].notnull() if required else table[column].notnull() | ~table[_PRESENT + column]

    return Rule("unparsable_timestamp", column, holds, hint)


def _not_before(column: str) -> Rule:
    return Rule("outcome_before_touchpoint", column, lambda rows: (rows[column] >= rows["timestamp"]).fill_null(True))


def _told_when(outcome: str) -> Rule:
    time = outcome_time(outcome)

    def holds(table: ibis.Table) -> ibis.Value:
        return ((table[outcome] == 0) | table[time].notnull()).fill_null(True)

    return Rule("outcome_without_time", time, holds, f"; {outcome} is `timed`")


def _value(rule: str, column: str, holds: Callable[[ibis.Value], ibis.Value], hint: str = "") -> Rule:
    return Rule(rule, column, lambda table: holds(table[column]).fill_null(True), hint)


def _flag(column: str, mark: str) -> list[Rule]:
    return [_present(column), _number(column, mark), _value("not_binary", column, lambda value: value.isin([0, 1]))]


def _cells(spec: DatasetSpec, optional: Collection[str]) -> list[Rule]:
    channels, mark = f"; known: {', '.join(spec.channels)} (docs/data.md, A new channel)", spec.file.decimal
    rules = [
        _present("user_id"),
        _time("timestamp", spec.columns),
        _present("campaign_id"),
        _present("channel"),
        _value("unknown_channel", "channel", lambda value: value.isin(spec.channels), channels),
        _present("cost"),
        _number("cost", mark),
        _value("negative_cost", "cost", lambda value: value >= 0),
        _value("huge_cost", "cost", lambda value: value <= _MOST_COST, f"; at most {_MOST_COST:g} currency units"),
        *_flag("click", mark),
        *_flag("conversion", mark),
        _present("revenue"),
        _number("revenue", mark),
    ]
    rules += [_present("propensity")] if spec.propensity == "logged" else []
    rules.append(_number("propensity", mark))
    rules.append(_value("propensity_out_of_range", "propensity", lambda value: (value > 0) & (value <= 1)))
    for column in _declared(spec):
        rules += [_present(column.name)] if column.missing == "error" else []
        rules += [_number(column.name, mark)] if column.kind == "numeric" else []
    for name in (name for name in _times(spec) if name in optional):
        rules.append(_time(name, spec.columns, required=name == CREATED))
        rules += [_not_before(name)] if name != CREATED else []
        rules += [_told_when(outcome) for outcome, time in spec.outcome_times.items() if time == name]
    return rules


# ---- rules that compare the rows of a user, and functions that find the rows that may break them

_USER_TIME = ("user_id", "timestamp")


def _is_first(table: ibis.Table) -> ibis.Value:
    same = [*SAME_TOUCHPOINT, *([SAME] if SAME in table.columns else [])]
    return ibis.row_number().over(group_by=[table[name] for name in same], order_by=table[ROW]) == 0


def _unchanging(column: str) -> Rule:
    def holds(table: ibis.Table) -> ibis.Value:
        value = table[column]
        # Compare each value with the user's first value that is not null. Null values break no rule.
        order = [value.isnull(), table[ROW]]
        return (value == value.first().over(group_by=table["user_id"], order_by=order)).fill_null(True)

    return Rule("changing_static", column, holds)


def _enough(least: int) -> Rule:
    hint = f"; at least {least} usable touchpoints are needed (min_touchpoints of the data set)"
    return Rule("single_touchpoint", "user_id", lambda rows: rows.count().over(group_by=rows["user_id"]) >= least, hint)


def same_times(table: ibis.Table) -> ibis.Table:
    """Return each pair of a user and a time that occurs in several rows."""
    times = table.group_by(_USER_TIME).agg(n=table.count())
    return times.filter(times["n"] > 1).select(*_USER_TIME)


def _uneven_users(table: ibis.Table, static: list[str], least: int) -> ibis.Table:
    ends = {f"{end}:{name}": getattr(table[name], end)() for name in static for end in ("min", "max")}
    users = table.group_by("user_id").agg(n=table.count(), **ends)
    changing = (users[f"min:{name}"] != users[f"max:{name}"] for name in static)
    return users.filter(ibis.or_(users["n"] < least, *(change.fill_null(False) for change in changing)))[["user_id"]]


def _declared(spec: DatasetSpec) -> tuple[Column, ...]:
    return (*spec.context, *spec.static, *spec.outcomes)


def _times(spec: DatasetSpec) -> list[str]:
    return [name for name in spec.optional_columns if name != TOUCHPOINT_ID]
