"""Drafts a description of a log: the roles of its columns, by their names and values.

    Path("log.yaml").write_text(draft_description("log.csv", named={"channel": "slot"}))

The name of a column counts only if its values fit. A comment NOTE is for reading. CHECK marks an unlikely guess: no
command reads the description until a person has answered it. A column that determines an outcome is no context.
"""

import re
import tempfile
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import ibis
import yaml

from features import messages
from features.engine import open_engine
from features.ingest import contract
from features.ingest.adapters import values
from features.ingest.adapters.files import at_hand
from features.ingest.findings import leaks
from features.ingest.ingest import adapter_of, matching_dataset
from features.ingest.profile import FEW, Facts, Profile
from mtorl.log.dataset import OUTCOMES, DatasetSpec, free_name
from mtorl.log.touchpoints import CREATED, LogError
from mtorl.runtime.files import naming_full_disk

MOST_ROWS = 1_000_000  # rows that are read
MOST_CHANNELS = 200
_RARE_ROWS, _RARE_SHARE = 10, 0.01  # a value with fewer rows, and a smaller share, is no channel
_ROWS_OF_USER, _FEW_USERS = 100, 500  # more rows each of fewer users: a group of users rather than a user
_FEWEST_ROWS = 100  # of a column of different whole numbers that are taken for ids
_MOST_CATEGORIES = 1000  # beyond it a column of text says little to a model

# The words of which a column's name consists, for each column of the log; earlier words are better.
WORDS: Mapping[str, tuple[str, ...]] = {
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
# Values that a column of the log has, and the same in words.
_FITS: Mapping[str, tuple[Callable[[Facts, int], bool], str]] = {
    "user_id": (lambda fact, rows: fact.present == rows and not (fact.numeric and fact.whole < rows), "in every row"),
    "timestamp": (
        lambda fact, rows: fact.time,
        "times: ISO 8601, since 1970, or in a format that is known here; else see docs/data.md",
    ),
    "campaign_id": (lambda fact, rows: fact.present == rows, "in every row"),
    "channel": (
        lambda fact, rows: fact.present == rows and 2 <= fact.distinct <= MOST_CHANNELS,
        f"in every row, and 2 to {MOST_CHANNELS} different ones",
    ),
    "cost": (lambda fact, rows: fact.numeric and fact.low >= 0, "plain numbers of at least 0"),
    "click": (lambda fact, rows: fact.flag, "0 or 1"),
    "conversion": (lambda fact, rows: fact.flag, "0 or 1"),
    "revenue": (lambda fact, rows: fact.numeric, "plain numbers"),
    "propensity": (lambda fact, rows: fact.numeric and fact.low > 0 and fact.high <= 1, "above 0 and at most 1"),
    CREATED: (lambda fact, rows: fact.time, "times"),
}
_ABSENT: Mapping[str, tuple[Any, str]] = {
    "campaign_id": ("all", "none seen, so there is one budget for all"),
    "cost": (1, "none seen, so an exposure costs one unit: budgets count exposures"),
    "click": (0, "none seen"),
    "conversion": (0, "none seen; outcomes of a second file: docs/data.md, Conversions in a second file"),
    "revenue": (0, "none seen"),
}
_NOTES = {
    "propensity": "how was the channel chosen? channel-frequency: by chance, at fixed shares. markov: by the one "
    "before. Values of policies are wrong where neither is so; log the probability to have them right",
    "context": "known before the decision? A column that is known only afterwards is an outcome",
    "outcomes": "by names or values known only afterwards; one that is known before the decision is context",
    "reward": "the outcome that a policy shall earn, or a weighted sum: {click: 0.1, revenue: 1}",
    "currency": "of cost and revenue, such as EUR",
}
_PER = {"micros": 1_000_000, "micro": 1_000_000, "cpm": 1000, "ecpm": 1000, "cents": 100, "cent": 100}


def draft_description(path: str | Path, named: Mapping[str, str] | None = None) -> str:
    """Describe a log as YAML: a file or folder, or its address, as `mtorl data validate` reads it.

    `named` are columns of the log whose names in the file a person knows. A log of a built-in data set, or without a
    visible user, time or channel, is a LogError.
    """
    with (
        open_engine("duckdb") as engine,
        tempfile.TemporaryDirectory(prefix="mtorl-draft-") as scratch,
        naming_full_disk(Path(scratch)),
        at_hand(path, Path(scratch) / "copy") as here,
    ):
        profile = Profile.of(engine, here, Path(scratch), MOST_ROWS)
        if (known := matching_dataset(profile.facts)) and not named:
            raise LogError(messages.NO_DESCRIPTION_NEEDED(log=here, dataset=known))
        draft = _Drafting(file_stem(path), profile, dict(named or {}))
        draft.find_roles(here)
        spec = DatasetSpec.from_dict(draft.description())
        read = contract.read(adapter_of(spec).adapt(profile.table, spec), spec)
        draft.outcomes |= {leak.column for leak in leaks(read, spec)}
        return _yaml(draft.description(), draft.comments, draft.left_out)


def file_stem(path: str | Path) -> str:
    """Name of a file or folder without its endings; of a path or an address."""
    return PurePosixPath(str(path)).name.split(".")[0]


@dataclass
class _Drafting:
    """A description in the making; `description` may be called again with more `outcomes`."""

    name: str
    profile: Profile
    roles: dict[str, str]  # column of the log -> column of the file
    outcomes: set[str] = field(default_factory=set)  # columns of the file that are known only afterwards
    comments: dict[str, str] = field(default_factory=dict)  # by field, or column of the log, which follows
    left_out: dict[str, str] = field(default_factory=dict)  # column of the file -> reason
    channels: list[str] = field(default_factory=list)
    fixed: set[str] = field(default_factory=set)  # columns of the file with one value for each user

    def find_roles(self, path: Path) -> None:
        """Give columns of the file the roles that no option names, and ask where the values are unlikely."""
        facts, rows, roles = self.profile.facts, self.profile.rows, self.roles
        for role, column in roles.items():
            if role not in WORDS:
                turned = f"; write {column}={role}" if column in WORDS else ""
                raise LogError(f"{role}={column}: a log has no column {role!r}{turned}; it has {', '.join(WORDS)}")
            if column not in facts:
                raise LogError(f"{role}={column}: {path} has no such column; it has {', '.join(facts)}")
        asked = WORDS.keys() - roles.keys()
        for role in WORDS:
            if role in asked:
                self._find(role)
        times = [name for name in facts if facts[name].time and name not in roles.values()]
        if "timestamp" not in roles and len(times) == 1:  # the name does not matter: it is the only time
            roles["timestamp"] = times[0]
        if missing := [role for role in _MUST if role not in roles]:
            options = "".join(f"\n--column {role}=NAME: its values are {_FITS[role][1]}" for role in missing)
            there = [f"{name} ({fact.distinct:,} different)" for name, fact in facts.items()]
            raise LogError(messages.UNCLEAR_COLUMNS(log=path, roles=missing, options=options, columns=there))
        if "user_id" in asked and (why := _unlikely_user(facts[roles["user_id"]], rows)):
            self._ask("user_id", f"{roles['user_id']!r} {why}. With a row's own id, each row is a user of its own")
        time = facts[roles["timestamp"]]
        if len(time.formats) > 1:
            self._ask("timestamp", f"{' and '.join(time.formats)} fit, since no day above 12 tells; which one is it?")
        if "channel" in asked and roles.get("propensity", "propensity") != "propensity":
            self._ask("propensity", f"is it the probability of the value in {roles['channel']!r}, the channel?")
        free = facts.keys() - roles.values()
        self.outcomes = {name for name in free if _AFTERWARDS & {*_words(name).split("_")}}
        if "decimal" in self.profile.file and self.profile.file.get("separator") != ";":
            self._ask("file", "commas are taken for decimal marks. If they group thousands, delete decimal")
        by_name = {"click", "conversion", "revenue"} & {*roles, *self.comments}
        if not by_name and not any(facts[name].outcome for name in self.outcomes):
            self._ask("click", "no column is an outcome by its name, so there is nothing to learn: --column click=NAME")
        for about, words in (_NOTES | {role: words for role, (_, words) in _ABSENT.items()}).items():
            if about not in roles:
                self._note(about, words)
        self.channels = self._channels()
        self.fixed = self._same_for_each_user([name for name in free if not self._unused(facts[name])])

    def description(self) -> dict[str, Any]:
        """The fields of the description, in their order."""
        facts, rows = self.profile.facts, self.profile.rows
        rest = [fact for fact in facts.values() if fact.name not in self.roles.values()]
        self.left_out = {fact.name: why for fact in rest if (why := self._unused(fact))}
        used = [fact for fact in rest if fact.name not in self.left_out]
        outcomes = [fact for fact in used if fact.name in self.outcomes]
        inputs = [fact for fact in used if fact not in outcomes]
        names = _free_names([fact.name for fact in (*inputs, *outcomes)])

        def listed(facts: Sequence[Facts], kind: str = "", missing: bool = False) -> list[dict[str, str]]:
            absent = {"missing": "unknown"}
            return [
                {"name": names[fact.name], "kind": kind or fact.kind}
                | (absent if missing or fact.present < rows else {})
                for fact in facts
            ]

        static = [fact for fact in inputs if fact.name in self.fixed]
        segments = (names[fact.name] for fact in static if fact.kind == "categorical" and fact.distinct <= 50)
        fields = {
            "name": self.name,
            "file": dict(self.profile.file),
            "channels": self.channels,
            "propensity": "logged" if "propensity" in self.roles else "channel-frequency",
            "columns": self._columns() | {name: raw for raw, name in names.items() if raw != name},
            "context": listed([fact for fact in inputs if fact not in static]),
            # A request brings no static columns: the store has them, and does not know newcomers.
            "static": listed(static, missing=True),
            "outcomes": listed(outcomes, "numeric"),
            "segment": next(segments, None),
            "reward": {"gain": self._gain([names[fact.name] for fact in outcomes if fact.high > 0])},
            "currency": "currency unit",
        }
        return {name: value for name, value in fields.items() if value}

    def _find(self, role: str) -> None:
        """Give a role to the column whose name fits best among those whose values fit; ask if there is only a name."""
        facts, rows = self.profile.facts, self.profile.rows
        called = _called(role, [name for name in facts if name not in self.roles.values()])
        fits, wanted = _FITS[role]
        fitting = [name for name in called if fits(facts[name], rows)]
        if fitting:  # only an exposure's own time, for instance, is in every row
            unlikely = {n for n in fitting if role == "user_id" and _unlikely_user(facts[n], rows)}
            self.roles[role] = min(fitting, key=lambda name: (name in unlikely, facts[name].present < rows))
        elif called and role not in _MUST and _meant(role, facts[called[0]]):
            self._ask(
                role,
                f"{called[0]!r} is called so, but not all of its values are {wanted}. Mend the log and begin again, or "
                "go on without",
            )

    def _channels(self) -> list[str]:
        """A value that is hardly ever there is a typo rather than a channel: a model can't learn it either."""
        column = self.roles["channel"]
        found = self.profile.table.select(value=values.text(self.profile.table[column]).strip())["value"].value_counts()
        found = found.filter(found["value"].notnull()).order_by("value").limit(MOST_CHANNELS + 1)
        counts = {row["value"]: row["value_count"] for row in found.to_pyarrow().to_pylist()}
        if len(counts) > MOST_CHANNELS:
            raise LogError(f"{column!r} has more than {MOST_CHANNELS} values: --column channel=NAME")
        rare = [name for name, n in counts.items() if n < _RARE_ROWS and n < _RARE_SHARE * self.profile.rows]
        if not 0 < len(rare) < len(counts) - 1:  # it has no others
            return [*counts]
        some = ", ".join(f"{name!r} ({counts[name]})" for name in rare[:5])
        self._note(
            "channels",
            f"left out, since few rows have one: {some}{' and more' * (len(rare) > 5)}. A typo? Mend the log, or go on "
            "without these rows: --bad-rows quarantine. If one is a channel, add it",
        )
        return [name for name in counts if name not in rare]

    def _columns(self) -> dict[str, Any]:
        """The sources of the log's own columns, as far as they are not columns of the same name."""
        columns: dict[str, Any] = {}
        for role in WORDS:
            source: Any = self.roles.get(role)
            if source is None:
                if role in _ABSENT:
                    columns[role] = {"value": _ABSENT[role][0]}
                continue
            fact = self.profile.facts[source]
            per = next((per for word, per in _PER.items() if word in _words(source).split("_")), 1)
            if fact.time and fact.unit and fact.times < fact.present and role in ("timestamp", CREATED):
                source = {"column": source, "unit": fact.unit}
            elif role in ("timestamp", CREATED):
                source = {"column": source, "format": fact.formats[0]} if fact.formats else source
                self._note(role, "in UTC, where it names no zone; else add timezone: Europe/Berlin, for instance")
            elif role in ("cost", "revenue") and per != 1:
                self._note(role, f"{source!r} is divided by {per:,}, since its name says so")
                source = {"column": source, "per": per}
            if source != role or role in self.comments:
                columns[role] = source
        return columns

    def _gain(self, further: Sequence[str]) -> str:
        """The first outcome that there is some of."""
        seen = [role for role in OUTCOMES[:3] if role in self.roles and self.profile.facts[self.roles[role]].high > 0]
        return next(iter([*seen, *further]), "click")

    def _unused(self, fact: Facts) -> str:
        """Reason why a column is left out; empty if it is not."""
        if fact.name in self.outcomes:
            return "" if fact.outcome else "seems to be known only afterwards, and is no number"
        if fact.distinct < 2:
            return "the same in every row"
        if fact.time:
            return "a time; its meaning for the decision has to be a column of its own"
        if _words(fact.name) in WORDS:
            return "called as a column of the log that it can't be"
        if fact.whole == fact.distinct == self.profile.rows >= _FEWEST_ROWS:
            return "another whole number in each row, as a row number or an id is"
        if fact.kind == "categorical" and fact.distinct > _MOST_CATEGORIES:
            return f"text with more than {_MOST_CATEGORIES:,} different values"
        return ""

    def _same_for_each_user(self, names: Sequence[str]) -> set[str]:
        """Columns with one value for each user, as far as users have several rows."""
        table = self.profile.table
        figures = {f"n{i}": values.text(table[name]).nunique() for i, name in enumerate(names)}
        users = table.group_by(self.roles["user_id"]).agg(rows=table.count(), **figures).filter(ibis._["rows"] > 1)
        most = users.agg(users=users.count(), **{name: users[name].max() for name in figures})
        found = most.to_pyarrow().to_pylist()[0]
        return {name for i, name in enumerate(names) if found["users"] and (found[f"n{i}"] or 0) <= 1}

    def _ask(self, about: str, words: str) -> None:
        self.comments[about] = f"CHECK {about}: {words}"

    def _note(self, about: str, words: str) -> None:
        self.comments.setdefault(about, f"NOTE {about}: {words}")


def _words(name: str) -> str:
    """Words of a column's name: `cost_micros` of "Cost (micros)"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _called(role: str, names: Sequence[str]) -> list[str]:
    """Columns whose names have a word of a role, the best first."""
    found = []
    for i, name in enumerate(names):
        own = _words(name)
        places = [place for place, word in enumerate(WORDS[role]) if word == own or word in own.split("_")]
        if own == role or places:
            found.append((-1 if own == role else places[0], i, name))
    return [name for *_, name in sorted(found)]


def _meant(role: str, fact: Facts) -> bool:
    """Whether values that do not fit may be meant for a role: those of a `click_id` are not."""
    exact = _words(fact.name) in (role, *WORDS[role])
    few = fact.distinct <= FEW
    like = few if role in ("click", "conversion") else role in ("cost", "revenue", "propensity") and not few
    return bool(fact.present) and not fact.time and (exact or like)


def _unlikely_user(fact: Facts, rows: int) -> str:
    """Reason why a column is hardly the user; empty if it may be."""
    if fact.distinct < _FEW_USERS and rows / max(fact.distinct, 1) > _ROWS_OF_USER:
        return f"has {fact.distinct:,} values in {rows:,} rows, as a group of users has"
    return f"has another value in each of {rows:,} rows, as no user has" if fact.distinct == rows > 1 else ""


def _free_names(columns: Sequence[str]) -> dict[str, str]:
    """Names of further columns in the log: the file's, if every store can have them."""
    names: dict[str, str] = {}
    for column in columns:
        plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode()
        base = name = free_name(re.sub(r"[^A-Za-z0-9_]+", "_", plain).strip("_"))
        number = 1
        while name.lower() in {taken.lower() for taken in names.values()}:
            number += 1
            name = f"{base}_{number}"
        names[column] = name
    return names


def _yaml(description: Mapping[str, Any], comments: Mapping[str, str], left_out: Mapping[str, str]) -> str:
    """A description as YAML, with a comment before the field or column that it is about."""
    lines: list[str] = []
    free = dict(comments)

    def add(about: str, text: str, indent: str = "") -> None:
        first, others = f"{indent}# ", f"{indent}#       "
        lines.extend(textwrap.wrap(free.pop(about, ""), 110, initial_indent=first, subsequent_indent=others))
        lines.append(indent + text)

    for name, value in description.items():
        if name == "columns":
            add(name, "columns:")
            for column, source in value.items():
                add(column, f"{column}: {_flow(source)}", "  ")
        elif isinstance(value, list) and name != "channels":
            add(name, f"{name}:")
            lines.extend(f"  - {_flow(entry)}" for entry in value)
        else:
            add(name, f"{name}: {_flow(value)}")
    for reason in dict.fromkeys(left_out.values()):
        columns = ", ".join(column for column, why in left_out.items() if why == reason)
        lines += textwrap.wrap(f"# left out: {columns}: {reason}", 118, subsequent_indent="#   ")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip().removesuffix("\n...")
