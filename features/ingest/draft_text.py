"""Writes a first description as YAML. A comment that begins with CHECK is a question; one with NOTE is to be read."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from features.ingest.profile.facts import FEW, Facts, Look, source_of_amount, source_of_time, words
from features.ingest.profile.roles import MOST_CHANNELS, WORDS, Roles, known_afterwards
from features.ingest.profile.second_file import Found
from mtorl.log.dataset import OUTCOMES, free_name
from mtorl.log.touchpoints import CREATED, LogError

_RARE_ROWS, _RARE_SHARE = 10, 0.01  # a value with fewer rows, and a smaller share, is no channel
_FEWEST_ROWS = 100  # of a column of different whole numbers that are taken for ids
_MOST_CATEGORIES = 1000  # beyond it a column of text says little to a model


@dataclass(frozen=True)
class Profile:
    """Findings about a file."""

    name: str
    look: Look
    roles: Roles
    channels: Mapping[str, int]  # rows
    second: Found | None
    told: str  # the description's name of the second file
    fixed: set[str]  # columns with one value for each user


class Writer:
    """Writes a description, its questions (`checks`) and its notes."""

    def __init__(self, profile: Profile) -> None:
        self.checks: list[str] = []
        self.notes: list[str] = []
        self._profile, self._second = profile, profile.second
        self._questions, self._roles = profile.roles.questions, profile.roles.columns
        self._facts, self._rows = profile.look.facts, profile.look.rows
        self._later = profile.second.outcomes if profile.second else ()
        self._lines: list[str] = []

    def text(self, leaks: Mapping[str, str]) -> str:
        """The description of a log; `leaks` are columns that determine an outcome, and which."""
        taken = {*self._roles.values(), self._second.touchpoint_id if self._second else ""}
        rest = [fact for fact in self._facts.values() if fact.name not in taken]
        afterwards = [fact for fact in rest if known_afterwards(fact) or fact.name in leaks]
        outcomes = [fact for fact in afterwards if fact.outcome]
        left_out = {fact.name: self._reason(fact, fact in afterwards) for fact in rest}
        others = [fact for fact in rest if fact not in afterwards and not left_out[fact.name]]
        static = [fact for fact in others if fact.name in self._profile.fixed]
        context = [fact for fact in others if fact not in static]
        names = self._names([*context, *static, *outcomes])

        self._line(f"name: {_flow(self._profile.name)}")
        if (dialect := self._profile.look.dialect).file:
            self._line(f"file: {_flow(dialect.file)}", check=f"file: {dialect.question}" * bool(dialect.question))
        self._channels()
        self._propensity()
        self._columns(names)
        self._conversions()
        self._mixed(rest)
        self._list("context", context, names, _CONTEXT)
        self._list("static", static, names)
        told = "".join(f"; {column!r} determines {outcome}" for column, outcome in leaks.items())
        self._list("outcomes", outcomes, names, _OUTCOMES + told)
        for reason in dict.fromkeys(filter(None, left_out.values())):
            told = ", ".join(name for name, why in left_out.items() if why == reason)
            self._lines += textwrap.wrap(f"# left out: {told}: {reason}", 118, subsequent_indent="#   ")
        segments = (fact for fact in static if fact.kind == "categorical" and fact.distinct <= 50)
        if segment := next(segments, None):
            self._line(f"segment: {names[segment.name]}", "the built-in incumbent tabulates by it")
        self._gain({names[fact.name]: fact for fact in outcomes})
        self._line("currency: currency unit", note="currency: of cost and revenue, such as EUR")
        return "\n".join(self._lines) + "\n"

    def _names(self, facts: Sequence[Facts]) -> dict[str, str]:
        """Names of further columns in the log: the file's, if every store can have them."""
        names: dict[str, str] = {}
        for fact in facts:
            plain = unicodedata.normalize("NFKD", fact.name).encode("ascii", "ignore").decode()
            base = name = free_name(re.sub(r"[^A-Za-z0-9_]+", "_", plain).strip("_"))
            number = 1
            while name.lower() in {taken.lower() for taken in names.values()}:
                number += 1
                name = f"{base}_{number}"
            names[fact.name] = name
        return names

    def _channels(self) -> None:
        """A value that is hardly ever there is a typo rather than a channel: a model can't learn it either."""
        counts = self._profile.channels
        rare = {name: n for name, n in counts.items() if n < _RARE_ROWS and n < _RARE_SHARE * self._rows}
        channels = [name for name in counts if name not in rare]
        if len(channels) < 2:  # whatever they are, it has no others
            channels, rare = list(counts), {}
        if len(channels) > MOST_CHANNELS and "channel" not in self._questions:
            raise LogError(
                f"{self._roles['channel']!r} has more than {MOST_CHANNELS} values: is it the channel? "
                "Say which column is: --column channel=NAME"
            )
        note = ""
        if rare:
            some = ", ".join(f"{name!r} ({n} row{'s' * (n != 1)})" for name, n in [*rare.items()][:5])
            more = f" and {len(rare) - 5} more" * (len(rare) > 5)
            note = (
                f"channels: left out, since hardly any row has it: {some}{more}. A typo? Mend the log, or go on "
                "without these rows: --bad-rows quarantine. If it is a channel, add it"
            )
        same: dict[str, list[str]] = {}
        for name in channels:
            same.setdefault(name.casefold(), []).append(name)
        check = ""
        if twice := [" and ".join(map(repr, names)) for names in same.values() if len(names) > 1]:
            check = f"channels: {', '.join(twice)} differ in case only. If they are one channel, mend the log"
        self._line(f"channels: {_flow(channels)}", note=note, check=check)

    def _propensity(self) -> None:
        check = self._questions.get("propensity", "")
        if "propensity" in self._roles:
            told = "the column looks like the probability with which the channel was chosen"
            self._line("propensity: logged", told, check=check)
        else:
            self._line("propensity: channel-frequency", note=_PROPENSITY, check=check)

    def _columns(self, names: Mapping[str, str]) -> None:
        start = len(self._lines)
        for role in WORDS:
            check = self._questions.get(role, "") if role != "propensity" else ""
            if role in self._later:
                continue
            if role in self._roles:
                self._column(role, self._facts[self._roles[role]], check)
            elif role in _ABSENT:
                value, note = _ABSENT[role]
                self._line(f"  {role}: {{value: {value}}}", note=f"{role}: {note}" * (not check), check=check)
        if self._second and self._second.touchpoint_id:
            self._line(f"  touchpoint_id: {_flow(self._second.touchpoint_id)}", "the conversions name it")
        for raw, name in names.items():
            if raw != name:
                self._line(f"  {name}: {_flow(raw)}")
        if len(self._lines) > start:
            self._lines.insert(start, "columns:")

    def _column(self, role: str, fact: Facts, check: str) -> None:
        source: Any = fact.name
        note = ""
        if role in ("timestamp", CREATED):
            source = source_of_time(fact)
            if role == "timestamp" and not fact.unit:
                said = {**({"column": source} if isinstance(source, str) else source), "timezone": "Europe/Berlin"}
                note = (
                    f"timestamp: times of {fact.name!r} that name no zone are in UTC; else write {_flow(said)}, "
                    "for instance"
                )
        elif role in ("cost", "revenue"):
            source = source_of_amount(fact)
            if isinstance(source, dict):
                note = f"{role}: {fact.name!r} is divided by {source['per']:,}, since its name says so"
        if source != role or check:
            self._line(f"  {role}: {_flow(source)}", note=note, check=check)

    def _conversions(self) -> None:
        if self._second is None:
            return
        for check in self._second.checks:
            self._comment("CHECK", check, "")
        for note in self._second.notes:
            self._comment("NOTE", note, "")
        self._line("conversions:")
        self._line(f"  source: {_flow(self._profile.told)}")
        if self._second.file:
            self._line(f"  file: {_flow(dict(self._second.file))}")
        self._line("  columns:")
        for name, source in self._second.columns.items():
            self._line(f"    {name}: {_flow(source)}")
        if "user_id" in self._second.columns:
            self._line("  attribution_days: 30", "a touchpoint longer before a row gets no part of it")
        told = "the model sees one of the touchpoint before, once it is known"
        self._line(f"timed: {_flow(list(self._later))}", told)

    def _list(self, field: str, facts: Sequence[Facts], names: Mapping[str, str], note: str = "") -> None:
        if not facts:
            return
        told = "the same in all rows of a user; of a newcomer it is unknown" if field == "static" else ""
        self._line(f"{field}:", told, note=f"{field}: {note}" if note else "")
        for fact in facts:
            entry = {"name": names[fact.name], "kind": fact.kind if field != "outcomes" else "numeric"}
            # A request brings no static columns: the store has them, and does not know newcomers.
            entry |= {"missing": "unknown"} if fact.present < self._rows or field == "static" else {}
            codes = field != "outcomes" and fact.numeric and fact.kind == "categorical"
            self._line(f"  - {_flow(entry)}", "few whole numbers: taken for codes" * codes)

    def _mixed(self, facts: Sequence[Facts]) -> None:
        """Ask about columns of numbers among which some text is."""
        mixed = [fact for fact in facts if fact.distinct > FEW and fact.present / 2 < fact.numbers < fact.present]
        if mixed:
            some = ", ".join(f"{fact.name!r} ({fact.numbers:,} of {fact.present:,} values)" for fact in mixed)
            check = (
                f"numbers, but for some text, so taken for text: {some}. If that marks a missing value, as '-' may, "
                "leave it empty in the log and begin again"
            )
            self._comment("CHECK", check, "")

    def _reason(self, fact: Facts, afterwards: bool) -> str:
        """Why a column is left out; empty if it is not."""
        if afterwards:
            what = "a time" if fact.time else "no number"
            return "" if fact.outcome else f"seems to be known only afterwards, and is {what}"
        if not fact.present or fact.distinct < 2:
            return "the same in every row"
        if fact.time:
            return "a time; what it says of the decision has to be a column of its own"
        if words(fact.name) in WORDS:
            return "called as a column of the log that it can't be"
        if fact.whole == fact.distinct == self._rows >= _FEWEST_ROWS:
            return "another whole number in each row, as a row number or an id is"
        if fact.kind == "categorical" and fact.distinct > _MOST_CATEGORIES:
            return f"text with more than {_MOST_CATEGORIES:,} different values"
        return ""

    def _gain(self, further: Mapping[str, Facts]) -> None:
        """The first outcome that there is some of; a description may weigh several."""
        seen = {role for role, column in self._roles.items() if self._facts[column].high > 0}
        some = [role for role in OUTCOMES[:3] if role in self._later or role in seen]
        some += [name for name, fact in further.items() if fact.high > 0]
        gain, *more = some or ["click"]
        amount = "revenue" if "revenue" in more else more[-1] if more else ""
        others = f"; {', '.join(more)} can be, or a weighted sum: {{{gain}: 0.1, {amount}: 1}}" if more else ""
        self._line(f"reward: {{gain: {gain}}}", note=f"reward: the gain is {gain}{others}")

    def _line(self, text: str, comment: str = "", note: str = "", check: str = "") -> None:
        indent = " " * (len(text) - len(text.lstrip()))
        if note:
            self._comment("NOTE", note, indent)
        if check:
            self._comment("CHECK", check, indent)
        self._lines.append(text + f"  # {comment}" * bool(comment))

    def _comment(self, kind: str, words: str, indent: str) -> None:
        (self.checks if kind == "CHECK" else self.notes).append(words)
        first, others = f"{indent}# ", f"{indent}#       "
        self._lines += textwrap.wrap(f"{kind} {words}", 110, initial_indent=first, subsequent_indent=others)


_NONE = "no column of the file seems to be it"
_ABSENT: Mapping[str, tuple[Any, str]] = {
    "campaign_id": ("all", "none seen, so there is one budget for all"),
    "cost": (1, "none seen, so an exposure costs one unit: budgets count exposures"),
    **dict.fromkeys(("click", "conversion", "revenue"), (0, _NONE)),
}
_PROPENSITY = (
    "propensity: how was the channel chosen? channel-frequency: by chance, at fixed shares. markov: by the one "
    "before. Values of policies are wrong where neither is so; log the probability to have them right"
)
_CONTEXT = "known before the decision? A column that is known only afterwards must not stand here"
_OUTCOMES = "by their names or values known only afterwards; if one is known before the decision, it is context"


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip().removesuffix("\n...")
