"""The data contract: rules for touchpoints, which the engine checks in one pass.

    cells, *others = stages(spec, optional=())
    table = judge(read(adapter.adapt(raw, spec), spec), cells)  # typed columns; unreadable values are null
    bad = broken(table, cells)                                  # rows that break a rule, and which rule, by column
    table = without(table, bad)                                 # the next stage checks the other rows

One query evaluates the conditions of all rules. A cell is reported once, for the first rule that it breaks.
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

_MOST_COST = 1e15  # of one exposure; sums of whole units must fit in 64 bits
_PRESENT = "present:"  # + a column's name: whether the file has a value
_CODE = "broken:"  # + a column's name: number of the broken rule, 0 for none

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
    """One kind of fault in one column."""

    rule: str
    column: str  # name in the file
    count: int  # rows
    example: str  # a value as written in the file
    row: int  # row of the example; 1 = the first row of data
    hint: str = ""
    file: str = ""  # name of the second file, if the fault is there

    def __str__(self) -> str:
        rows = "1 row" if self.count == 1 else f"{self.count:,} rows"
        example = f"{self.example} (row {self.row})" if self.example else f"row {self.row}"
        where = f"{self.file}: column {self.column!r}" if self.file else f"column {self.column!r}"
        return f"{where}: {rows} {MEANING[self.rule]}, e.g. {example}{self.hint}"


Suspects = Callable[[ibis.Table], ibis.Table]
"""A cheap aggregate of all rows that returns the keys of the only rows that can break an expensive rule."""


class Rule(NamedTuple):
    """A condition on a column; `holds` is true or false for each row, never null."""

    fault: str  # a key of MEANING
    column: str
    holds: Callable[[ibis.Table], ibis.Value]
    hint: str = ""


@dataclass(frozen=True)
class Stage:
    """Rules that are checked together, on rows that broke no rule of an earlier stage."""

    checked: tuple[Rule, ...]  # rules of one column are adjacent
    suspects: Suspects | None = None  # None: every row may break a rule

    def rules(self) -> list[tuple[str, list[Rule]]]:
        """Return each column with its rules, in the order of checking."""
        return [(name, list(rules)) for name, rules in groupby(self.checked, lambda rule: rule.column)]


@dataclass(frozen=True)
class Cells:
    """The cells of a file: `raw`, `adapted` by an adapter, and the names in the file (`called`) of adapted columns."""

    raw: ibis.Table
    adapted: ibis.Table
    called: Mapping[str, str]
    file: str = ""  # name of the file, if it is the second file

    def faults(self, stage: Stage, rows: ibis.Table) -> Iterator[Fault]:
        """Yield a fault, with row count and first example, for each column's rule that `rows` (from `broken`) break."""
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
        """Return `ROW` and a text with the faults of each of these rows."""
        words = []
        for name, rules in stage.rules():
            own = self.called.get(name, name)
            places = ((rows[name] == place, f"{rule.fault} ({own}); ") for place, rule in enumerate(rules, 1))
            words.append(ibis.cases(*places, else_=""))
        text = reduce(lambda a, b: a + b, words)
        return rows.select(ROW, **{"#mark": text.left(text.length() - 2)})

    def _value(self, name: str, row: int) -> str:
        """Return a value as written in the file; if an adapter combines several columns, the adapter's value."""
        own = self.called.get(name, name)
        table, column = (self.raw, own) if own in self.raw.columns else (self.adapted, name)
        value = table.filter(table[ROW] == row).select(column).to_pyarrow().to_pylist()[0][column]
        if value is None:
            return ""
        return value.isoformat() if isinstance(value, datetime.date) else repr(value)


def read(adapted: ibis.Table, spec: DatasetSpec, names: Collection[str] = ()) -> ibis.Table:
    """Parse an adapter's columns: `ROW`, columns for the rules, and the named columns (by default all of the log's)."""
    columns: dict[str, ibis.Value] = {}
    numbers = spec.numbers
    zero = {c.name for c in _declared(spec) if c.missing == "zero"}
    happened = {*EVENTS, *(c.name for c in spec.outcomes)}  # flags; a further outcome may also be an amount
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
    """Return the columns of the canonical log, given rows that broke no rule."""
    whole = {name: table[name].cast("int64") for name in ("click", "conversion")}
    times = [name for name in _times(spec) if name in table.columns]
    # A touchpoint that was moved by a microsecond may now be later than an outcome that was known immediately.
    not_before = {
        name: ibis.ifelse(table[name] < table["timestamp"], table["timestamp"], table[name])
        for name in times
        if name != CREATED
    }
    return table.mutate(**whole, **not_before).select(*spec.log_columns, *times)


def stages(spec: DatasetSpec, optional: Collection[str]) -> tuple[Stage, ...]:
    """Return the rules of a data set, for cells and then for users; `optional` are the log's optional columns."""
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
    """Return the contract of the second file, by the column names in `told`."""
    rules, mark = [_time("timestamp", told.columns)], told.file.decimal
    for name in told.outcomes:
        rules += _flag(name, mark) if name in EVENTS else [_present(name), _number(name, mark)]
    return Stage(tuple(rules))


def judge(table: ibis.Table, stage: Stage) -> ibis.Table:
    """Add, for each column with rules, the number of the first broken rule, from 1; 0 if none is broken."""
    codes = {}
    for name, rules in stage.rules():
        passed = [rule.holds(table) for rule in rules]
        codes[_CODE + name] = ibis.cases(*((~ok, place) for place, ok in enumerate(passed, 1)), else_=0).cast("int8")
    further = [name for name in table.columns if not name.startswith((_PRESENT, _CODE))]
    return table.select(*further, **codes)


def is_broken(judged: ibis.Table, stage: Stage) -> ibis.Value:
    """Return whether a row breaks a rule of the stage with which it was judged."""
    return ibis.or_(*(judged[_CODE + name] > 0 for name, _ in stage.rules()))


def broken(judged: ibis.Table, stage: Stage) -> ibis.Table:
    """Return the rows that break a rule of the stage: `ROW`, and the number of the rule by column."""
    bad = judged.filter(is_broken(judged, stage))
    return bad.select(ROW, **{name: bad[_CODE + name] for name, _ in stage.rules()})


def without(table: ibis.Table, rows: ibis.Table) -> ibis.Table:
    """Return a table without the given rows."""
    return table.anti_join(rows, ROW).select(*table.columns)


def suspected(table: ibis.Table, keys: ibis.Table) -> ibis.Table:
    """Return the rows with the keys that `Stage.suspects` returned."""
    return table.semi_join(keys, keys.columns).select(*table.columns)


def moved_ties(table: ibis.Table, keys: ibis.Table) -> ibis.Table:
    """Move touchpoints of a user at the same time 1 us apart, in the order of the file.

    Takes rows that broke no rule, and the keys that `same_times` returns. Returns `ROW` and the new time, `moved`, of
    the rows whose time changes.
    """
    rows = suspected(table, keys.select("user_id").distinct())
    rows = rows.select("user_id", ROW, at=unix_micros(rows["timestamp"]))
    order = ["at", ROW]
    rows = rows.mutate(turn=ibis.row_number().over(group_by="user_id", order_by=order))
    so_far = ibis.window(group_by="user_id", order_by=order, preceding=None, following=0)
    rows = rows.mutate(moved=strictly_increasing(rows["at"], rows["turn"], so_far))
    return rows.filter(rows["moved"] != rows["at"]).select(ROW, moved=timestamp_micros(rows["moved"]))


# ---- rules about cells: an allowed null breaks no rule


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


# ---- rules about a user's rows, and the rows that can break them

_USER_TIME = ("user_id", "timestamp")


def _is_first(table: ibis.Table) -> ibis.Value:
    same = [*SAME_TOUCHPOINT, *([SAME] if SAME in table.columns else [])]
    return ibis.row_number().over(group_by=[table[name] for name in same], order_by=table[ROW]) == 0


def _unchanging(column: str) -> Rule:
    def holds(table: ibis.Table) -> ibis.Value:
        value = table[column]
        order = [value.isnull(), table[ROW]]  # nulls last, because a null is not a value
        return (value == value.first().over(group_by=table["user_id"], order_by=order)).fill_null(True)

    return Rule("changing_static", column, holds)


def _enough(least: int) -> Rule:
    hint = f"; at least {least} usable touchpoints are needed (min_touchpoints of the data set)"
    return Rule("single_touchpoint", "user_id", lambda rows: rows.count().over(group_by=rows["user_id"]) >= least, hint)


def same_times(table: ibis.Table) -> ibis.Table:
    """Return each pair of user and time that has several rows."""
    times = table.group_by(_USER_TIME).agg(n=table.count())
    return times.filter(times["n"] > 1).select(*_USER_TIME)


def _uneven_users(table: ibis.Table, static: list[str], least: int) -> ibis.Table:
    """Return users with several values in a static column, or with too few rows.

    A user with several values may end up with too few rows, once the rows with other values are removed.
    """
    ends = {f"{end}:{name}": getattr(table[name], end)() for name in static for end in ("min", "max")}
    users = table.group_by("user_id").agg(n=table.count(), **ends)
    changing = (users[f"min:{name}"] != users[f"max:{name}"] for name in static)
    return users.filter(ibis.or_(users["n"] < least, *(change.fill_null(False) for change in changing)))[["user_id"]]


def _declared(spec: DatasetSpec) -> tuple[Column, ...]:
    return (*spec.context, *spec.static, *spec.outcomes)


def _times(spec: DatasetSpec) -> list[str]:
    """Return the columns with times, except the touchpoint's own time, in order."""
    return [name for name in spec.optional_columns if name != TOUCHPOINT_ID]
