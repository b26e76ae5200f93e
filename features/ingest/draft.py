"""A first description of a log that nobody has described: what its columns seem to be, by name and by content.

    draft = draft_description(Path("log.csv"), named={"channel": "slot"})
    Path("log.yaml").write_text(draft.text)            # a description that loads, with what to check in its comments

A column is what its name says only where its values can be that: a time because its values are times. What can't be
known from the file (is this column known before the decision? how was the channel chosen?) is decided carefully, and
marked.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import ibis
import yaml

from features.engine import open_engine
from features.ingest import adapters
from features.ingest.adapters import base as values
from features.ingest.adapters import files
from features.ingest.draft_conversions import Found, look_at
from features.ingest.facts import Facts, facts_of, rank
from features.ingest.object_store import at_hand
from features.ingest.spark_table import SCHEME
from mtorl.log.dataset import OUTCOMES, DatasetSpec
from mtorl.log.touchpoints import CREATED, LogError

MOST_ROWS = 1_000_000  # that are looked at
_MOST_CHANNELS = 50
_RARE_ROWS, _RARE_SHARE = 10, 0.01  # a value with fewer rows, and a smaller share, is no channel
_MOST_CATEGORIES = 1000  # beyond it a column of text says little to a model

# The words of which a column's name consists, for each column of the log; earlier words are better.
_WORDS: Mapping[str, tuple[str, ...]] = {
    "user_id": ("user", "uid", "userid", "visitor", "customer", "member", "cookie", "client", "device_id"),
    "timestamp": ("timestamp", "time", "ts", "shown", "served", "datetime", "impression", "date", "at"),
    "campaign_id": ("campaign", "campaignid", "line", "lineitem", "advertiser", "order", "adgroup"),
    "channel": ("channel", "slot", "medium", "format", "source", "network", "placement", "position"),
    "cost": ("cost", "spend", "price", "paid", "cpm", "ecpm", "bid"),
    "click": ("click", "clicked", "clicks", "tap", "tapped", "taps"),
    "conversion": ("conversion", "converted", "conversions", "purchase", "purchased", "bought", "sale"),
    "revenue": ("revenue", "profit", "income", "gmv", "margin", "sales", "value"),
    "propensity": ("propensity", "pscore", "probability", "prob"),
    CREATED: ("created", "ingested", "loaded", "arrived", "received"),
}
_AFTERWARDS = {
    *("click", "clicked", "clicks", "conversion", "converted", "purchase", "revenue", "profit", "attribution", "liked"),
    *("like", "viewed", "watched", "dwell", "duration", "seconds", "paid", "won", "refund", "returned", "outcome"),
}
_MUST = ("user_id", "timestamp", "channel")


@dataclass(frozen=True)
class Draft:
    """A description in YAML.

    Attributes:
        text: The YAML, with comments.
        spec: What it says.
        checks: What a person should look at, a sentence each; they are in the comments, too.
        rows: Rows of the file that were looked at.
    """

    text: str
    spec: DatasetSpec
    checks: tuple[str, ...]
    rows: int


def draft_description(
    path: str | Path,
    named: Mapping[str, str] | None = None,
    name: str = "",
    conversions: str | Path = "",
    told: str = "",
) -> Draft:
    """Look at a log and describe it.

    Args:
        path: A file or folder, or its address, as `mtorl data validate` reads it.
        named: What somebody knows already: columns of the log, and what the file calls them.
        name: Of the data set; by default that of the file.
        conversions: A second file, with what came of touchpoints later; empty for none.
        told: How the description names it: a path relative to where it is written, or an address.

    Raises:
        LogError: The file can't be read, is of a built-in data set, or does not show which column is the user, the time
            or the channel.
    """
    with (
        open_engine("duckdb") as engine,
        tempfile.TemporaryDirectory(prefix="mtorl-draft-") as scratch,
        at_hand(path, Path(scratch) / "copy") as here,
    ):
        parts = files.parts(here)
        names = files.columns_of(here, parts)
        if (known := adapters.looks_like(names)) and not named:
            raise LogError(
                f"{here}: this is a log of data set {known!r}, which needs no description: --dataset {known}"
            )
        with files.readable(here):
            table = files.table(engine, parts, names, Path(scratch)).limit(MOST_ROWS)
            facts, rows = facts_of(table, names)
        if not rows:
            raise LogError(f"{here}: the file has columns but no rows")
        roles = _roles(here, facts, rows, named or {})
        channels = _counts_of(table, roles["channel"])
        rest = [facts[name] for name in names if name not in roles.values()]
        fixed = _same_for_each_user(table, roles["user_id"], [fact.name for fact in rest])
        second = None
        if conversions:
            ids = [fact.name for fact in rest if fact.present == fact.distinct == rows]
            with at_hand(conversions, Path(scratch) / "second") as there:
                second = look_at(engine, there, table, ids, roles["user_id"], Path(scratch))
            rest = [fact for fact in rest if fact.name != second.touchpoint_id]
    return _Writer(name or file_stem(path), facts, roles, channels, rows, second, told or str(conversions)).draft(
        rest, fixed
    )


def file_stem(path: str | Path) -> str:
    """Name of a file or folder without its endings, or of a table; of a path or an address."""
    name = PurePosixPath(str(path)).name
    return name.rpartition(".")[2] if str(path).startswith(SCHEME) else name.split(".")[0]


_CONTENT: Mapping[str, Callable[[Facts, int], bool]] = {
    "user_id": lambda fact, rows: fact.present == rows,
    "timestamp": lambda fact, rows: fact.time,
    "campaign_id": lambda fact, rows: fact.present == rows,
    "channel": lambda fact, rows: fact.present == rows and 2 <= fact.distinct <= _MOST_CHANNELS,
    "cost": lambda fact, rows: fact.numeric and fact.low >= 0,
    "click": lambda fact, rows: fact.flag,
    "conversion": lambda fact, rows: fact.flag,
    "revenue": lambda fact, rows: fact.numeric,
    "propensity": lambda fact, rows: fact.numeric and fact.low > 0 and fact.high <= 1,
    CREATED: lambda fact, rows: fact.time,
}


def _roles(path: Path, facts: Mapping[str, Facts], rows: int, named: Mapping[str, str]) -> dict[str, str]:
    """What the file calls each column of the log that it seems to have."""
    for role, column in named.items():
        if role not in _WORDS:
            turned = f"; write {column}={role}" if column in _WORDS else ""
            raise LogError(f"{role}={column}: a log has no column {role!r}{turned}; it has {', '.join(_WORDS)}")
        if column not in facts:
            raise LogError(f"{role}={column}: {path} has no such column; it has {', '.join(facts)}")
    roles = dict(named)
    for role, words in _WORDS.items():
        if role in roles:
            continue
        fitting = [
            (place, i, name)
            for i, (name, fact) in enumerate(facts.items())
            if name not in roles.values() and _CONTENT[role](fact, rows)
            if (place := -1 if name.lower() == role else rank(name, words)) is not None
        ]
        if fitting:
            roles[role] = min(fitting)[2]
    if "timestamp" not in roles:  # whatever it is called, the only time there is
        times = [name for name, fact in facts.items() if fact.time and name not in roles.values()]
        roles |= {"timestamp": times[0]} if len(times) == 1 else {}
    missing = [role for role in _MUST if role not in roles]
    if missing:
        options = " ".join(f"--column {role}=NAME" for role in missing)
        raise LogError(
            f"{path}: which column is {' and which is '.join(missing)}? None shows it by its name and its values. "
            f"Say so: {options}\ncolumns in the file: {', '.join(facts)}"
        )
    return roles


def _counts_of(table: ibis.Table, name: str) -> dict[str, int]:
    """How many rows have each value of a column, by value; the most frequent ones of very many."""
    found = table.select(value=values.text(table[name])).filter(ibis._["value"].notnull())
    counted = found.group_by("value").agg(rows=ibis._.count()).order_by(ibis.desc("rows"), "value").limit(1000)
    return {str(row["value"]): int(row["rows"]) for row in counted.to_pyarrow().sort_by("value").to_pylist()}


def _same_for_each_user(table: ibis.Table, user: str, names: Sequence[str]) -> set[str]:
    """Columns with one value for each user, as far as users come more than once."""
    if not names:
        return set()
    figures = {f"n{i}": values.text(table[name]).nunique() for i, name in enumerate(names)}
    users = table.group_by(user).agg(rows=table.count(), **figures).filter(ibis._["rows"] > 1)
    most = users.agg(users=users.count(), **{f"n{i}": users[f"n{i}"].max() for i in range(len(names))})
    found = most.to_pyarrow().to_pylist()[0]
    return {name for i, name in enumerate(names) if found["users"] and (found[f"n{i}"] or 0) <= 1}


class _Writer:
    """Writes the description; comments begin with CHECK where a person has to decide."""

    def __init__(
        self,
        name: str,
        facts: Mapping[str, Facts],
        roles: Mapping[str, str],
        channels: Mapping[str, int],
        rows: int,
        second: Found | None,
        told: str,
    ) -> None:
        self._second, self._told = second, told
        self._later = second.outcomes if second else ()
        self._name, self._facts, self._roles, self._channels, self._rows = name, facts, roles, channels, rows
        self._lines: list[str] = []
        self._checks: list[str] = []

    def draft(self, rest: Sequence[Facts], fixed: set[str]) -> Draft:
        """The description of a log with these further columns, some of them fixed for each user."""
        self._line(f"name: {_flow(self._name)}")
        self._write_channels()
        if "propensity" in self._roles:
            self._line("propensity: logged", "the column looks like the probability with which the channel was chosen")
        else:
            self._line("propensity: channel-frequency", *_PROPENSITY)
        self._columns()
        self._conversions()
        outcomes = [fact for fact in rest if _AFTERWARDS & {*fact.name.lower().replace("-", "_").split("_")}]
        others = [fact for fact in rest if fact not in outcomes]
        left_out = [fact for fact in others if self._reason(fact)]
        others = [fact for fact in others if fact not in left_out]
        static = [fact for fact in others if fact.name in fixed]
        self._list("context", [fact for fact in others if fact not in static], _CONTEXT)
        self._list("static", static, "the same in all rows of a user; of a newcomer it is unknown")
        self._list("outcomes", [fact for fact in outcomes if fact.outcome], _OUTCOMES)
        for fact in left_out:
            self._lines.append(f"# left out: {fact.name}: {self._reason(fact)}")
        for fact in outcomes:
            if not fact.outcome:
                self._lines.append(f"# left out: {fact.name}: seems to be known only afterwards, and is no number")
        if segment := next((fact.name for fact in static if fact.kind == "categorical" and fact.distinct <= 50), None):
            self._line(f"segment: {segment}", "the built-in incumbent tabulates by it")
        self._gain([fact.name for fact in outcomes if fact.outcome])
        self._line("currency: currency unit", "", "currency: of cost and revenue, such as EUR")
        text = "\n".join(self._lines) + "\n"
        return Draft(text, DatasetSpec.from_dict(yaml.safe_load(text)), tuple(self._checks), self._rows)

    def _write_channels(self) -> None:
        """A value that is hardly ever there is a typo rather than a channel: a model can't learn it either."""
        rare = {name: n for name, n in self._channels.items() if n < _RARE_ROWS and n < _RARE_SHARE * self._rows}
        channels = [name for name in self._channels if name not in rare]
        if len(channels) < 2:  # whatever they are, it has no others
            channels, rare = list(self._channels), {}
        if len(channels) > _MOST_CHANNELS:
            raise LogError(
                f"{self._roles['channel']!r} has more than {_MOST_CHANNELS} values: is it the channel? "
                "Say which column is: --column channel=NAME"
            )
        check = ""
        if rare:
            some = ", ".join(f"{name!r} ({n} row{'s' * (n != 1)})" for name, n in [*rare.items()][:5])
            more = f" and {len(rare) - 5} more" * (len(rare) > 5)
            check = (
                f"channels: left out, since hardly any row has it: {some}{more}. A typo? Mend the log, or go on "
                "without these rows: --bad-rows quarantine. If it is a channel, add it"
            )
        self._line(f"channels: {_flow(channels)}", "", check)

    def _columns(self) -> None:
        start = len(self._lines)
        for role in _WORDS:
            if role in self._later:
                continue
            if role in self._roles:
                self._column(role, self._facts[self._roles[role]])
            elif role == "cost":
                check = "cost: none seen, so an exposure costs one unit: budgets count exposures"
                self._line("  cost: {value: 1}", "", check)
            elif role in ("click", "conversion", "revenue"):
                self._line(f"  {role}: {{value: 0}}", "", f"{role}: no column of the file seems to be it")
            elif role == "campaign_id":
                self._line("  campaign_id: {value: all}", "", "campaign_id: none seen, so there is one budget for all")
        if self._second and self._second.touchpoint_id:
            self._line(f"  touchpoint_id: {_flow(self._second.touchpoint_id)}", "the conversions name it")
        if len(self._lines) > start:
            self._lines.insert(start, "columns:")

    def _conversions(self) -> None:
        if self._second is None:
            return
        for check in self._second.checks[1:]:
            self._check(check)
        self._line("conversions:", "", self._second.checks[0])
        self._line(f"  source: {_flow(self._told)}")
        self._line("  columns:")
        for name, source in self._second.columns.items():
            self._line(f"    {name}: {_flow(source)}")
        if "user_id" in self._second.columns:
            self._line("  attribution_days: 30", "a touchpoint longer before a row gets no part of it")
        self._line(
            f"timed: {_flow(list(self._later))}", "the model sees one of the touchpoint before, once it is known"
        )

    def _gain(self, further: list[str]) -> None:
        """The first outcome that there is some of; a description may weigh several."""
        some = [role for role in OUTCOMES[:3] if role in self._later or self._high(role) > 0]
        some += [name for name in further if self._facts[name].high > 0]
        gain, *more = some or ["click"]
        amount = "revenue" if "revenue" in more else more[-1] if more else ""
        others = f"; {', '.join(more)} can be, or a weighted sum: {{{gain}: 0.1, {amount}: 1}}" if more else ""
        self._line(f"reward: {{gain: {gain}}}", "", f"reward: the gain is {gain}{others}")

    def _high(self, role: str) -> float:
        return self._facts[self._roles[role]].high if role in self._roles else 0.0

    def _column(self, role: str, fact: Facts) -> None:
        source: Any = fact.name
        check = ""
        if role in ("timestamp", CREATED) and fact.unit and fact.times < fact.present:
            source = {"column": fact.name, "unit": fact.unit}
        elif role == "timestamp":
            check = (
                f"timestamp: times of {fact.name!r} that name no zone are in UTC; else write {{column: {fact.name}, "
                "timezone: Europe/Berlin}, for instance"
            )
        if role == "cost" and "cpm" in fact.name.lower():
            source = {"column": fact.name, "per": 1000}
            check = f"cost: {fact.name!r} is taken for a price per mille"
        if source != role:
            self._line(f"  {role}: {_flow(source)}", "", check)

    def _list(self, field: str, facts: Sequence[Facts], check: str) -> None:
        if not facts:
            return
        self._line(f"{field}:", "", f"{field}: {check}" if check in (_CONTEXT, _OUTCOMES) else "")
        for fact in facts:
            entry = {"name": fact.name, "kind": fact.kind if field != "outcomes" else "numeric"}
            # A request brings no static columns: the store has them, and does not know newcomers.
            entry |= {"missing": "unknown"} if fact.present < self._rows or field == "static" else {}
            self._line(f"  - {_flow(entry)}", "few whole numbers: taken for codes" * self._are_codes(fact, field))

    def _are_codes(self, fact: Facts, field: str) -> bool:
        return field != "outcomes" and fact.numeric and fact.kind == "categorical"

    def _reason(self, fact: Facts) -> str:
        """Why a column is left out; empty if it is not."""
        if not fact.present or fact.distinct < 2:
            return "it says the same in every row"
        if not fact.numeric and fact.time:
            return "a time; what it says of the decision has to be a column of its own"
        if fact.kind == "categorical" and fact.distinct > _MOST_CATEGORIES:
            return f"text with {fact.distinct:,} different values"
        if not _is_name(fact.name):
            return "a column's name is a letter, then letters, digits and _; rename it to use it"
        return ""

    def _line(self, text: str, comment: str = "", check: str = "") -> None:
        if check:
            self._check(check, " " * (len(text) - len(text.lstrip())))
        self._lines.append(text + f"  # {comment}" * bool(comment))

    def _check(self, check: str, indent: str = "") -> None:
        self._checks.append(check)
        first, others = f"{indent}# ", f"{indent}#       "
        self._lines += textwrap.wrap(f"CHECK {check}", 110, initial_indent=first, subsequent_indent=others)


_PROPENSITY = (
    "",
    "propensity: how was the channel chosen? channel-frequency: by chance, at fixed shares. markov: by the one "
    "before. Values of policies are wrong where neither is so; log the probability to have them right",
)
_CONTEXT = "known before the decision? A column that is known only afterwards must not stand here"
_OUTCOMES = "by their names known only afterwards; if one is known before the decision, it is context"


def _is_name(name: str) -> bool:
    return name.isidentifier() and name.isascii() and not name.startswith("_")


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip().removesuffix("\n...")
