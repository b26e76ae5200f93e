"""Drafts the data set description of an unknown log.

    Path("log.yaml").write_text(draft_description("log.csv", named={"channel": "slot"}))

In the draft, a comment with NOTE explains a choice, and a comment with CHECK asks about an uncertain guess. Other
commands reject the description until the user has answered each CHECK.
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

MOST_ROWS = 1_000_000  # largest number of rows to read
MOST_CHANNELS = 200
# A channel is probably a typo if it has fewer rows than this number and than this share of all rows.
_RARE_ROWS, _RARE_SHARE = 10, 0.01
# With more rows per value and fewer values than this, a column probably contains groups of users, not single users.
_ROWS_OF_USER, _FEW_USERS = 100, 500
# If a column has a different whole number in each row, and there are at least this many rows, it is an id.
_FEWEST_ROWS = 100
# A text column with more distinct values than this is of little use to a model.
_MOST_CATEGORIES = 1000

# Words in the name of a file's column that suggest one of the log's columns. Earlier words are stronger hints.
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
# Condition on the values of a file's column for each column of the log, as a function and in words.
_FITS: Mapping[str, tuple[Callable[[Facts, int], bool], str]] = {
    "user_id": (lambda fact, rows: fact.present == rows and not (fact.numeric and fact.whole < rows), "in every row"),
    "timestamp": (
        lambda fact, rows: fact.time,
        "in ISO 8601, numbers since 1970, or in a common format; for other formats see docs/data.md",
    ),
    "campaign_id": (lambda fact, rows: fact.present == rows, "present in every row"),
    "channel": (
        lambda fact, rows: fact.present == rows and 2 <= fact.distinct <= MOST_CHANNELS,
        f"present in every row, with 2 to {MOST_CHANNELS} different ones",
    ),
    "cost": (lambda fact, rows: fact.numeric and fact.low >= 0, "plain numbers of at least 0"),
    "click": (lambda fact, rows: fact.flag, "0 or 1"),
    "conversion": (lambda fact, rows: fact.flag, "0 or 1"),
    "revenue": (lambda fact, rows: fact.numeric, "plain numbers"),
    "propensity": (lambda fact, rows: fact.numeric and fact.low > 0 and fact.high <= 1, "above 0 and at most 1"),
    CREATED: (lambda fact, rows: fact.time, "times"),
}
_ABSENT: Mapping[str, tuple[Any, str]] = {
    "campaign_id": ("all", "not found, so all touchpoints share one budget"),
    "cost": (1, "not found, so an exposure costs one unit and budgets count exposures"),
    "click": (0, "not found"),
    "conversion": (0, "not found; if they are in a second file: docs/data.md, Conversions in a second file"),
    "revenue": (0, "not found"),
}
_NOTES = {
    "propensity": "how was the channel chosen? channel-frequency: at random with fixed shares. markov: by the "
    "previous channel. If neither is true, policy values are wrong: log the probability",
    "context": "columns known before the decision. Move a column that is known only afterwards to outcomes",
    "outcomes": "columns that seem to be known only after the decision. Move one that is known before to context",
    "reward": "the outcome that a policy should maximize, or a weighted sum: {click: 0.1, revenue: 1}",
    "currency": "unit of cost and revenue, such as EUR",
}
_PER = {"micros": 1_000_000, "micro": 1_000_000, "cpm": 1000, "ecpm": 1000, "cents": 100, "cent": 100}


def draft_description(path: str | Path, named: Mapping[str, str] | None = None) -> str:
    """Return a draft of the YAML description of a log.

    Args:
        named: Maps columns of the log to columns of the file, as far as the user has chosen them.

    Raises:
        LogError: The log belongs to a built-in data set, or no column seems to contain the user, time or channel.
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
    """Return the name of a file or folder without its extensions, given a path or an address."""
    return PurePosixPath(str(path)).name.split(".")[0]


@dataclass
class _Drafting:
    """Collects the parts of a description, which the method `description` combines.

    Attributes:
        roles: Maps columns of the log, such as `cost`, to their names in the file.
    """

    name: str
    profile: Profile
    roles: dict[str, str]
    outcomes: set[str] = field(default_factory=set)
    comments: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    channels: list[str] = field(default_factory=list)
    fixed: set[str] = field(default_factory=set)

    def find_roles(self, path: Path) -> None:
        """Find the file's column for each column of the log that the user has not named."""
        facts, rows, roles = self.profile.facts, self.profile.rows, self.roles
        for role, column in roles.items():
            if role not in WORDS:
                turned = f". Write {column}={role}" if column in WORDS else ""
                raise LogError(f"{role}={column}: a log has no column {role!r}{turned}. It has {', '.join(WORDS)}")
            if column not in facts:
                raise LogError(f"{role}={column}: {path} has no such column. Its columns are {', '.join(facts)}")
        asked = WORDS.keys() - roles.keys()
        for role in WORDS:
            if role in asked:
                self._find(role)
        times = [name for name in facts if facts[name].time and name not in roles.values()]
        # The only column with times is the timestamp, even if its name does not fit.
        if "timestamp" not in roles and len(times) == 1:
            roles["timestamp"] = times[0]
        if missing := [role for role in _MUST if role not in roles]:
            options = "".join(f"\n--column {role}=NAME, with values {_FITS[role][1]}" for role in missing)
            there = [f"{name} ({fact.distinct:,} different)" for name, fact in facts.items()]
            raise LogError(messages.UNCLEAR_COLUMNS(log=path, roles=missing, options=options, columns=there))
        if "user_id" in asked and (why := _unlikely_user(facts[roles["user_id"]], rows)):
            self._ask("user_id", f"{roles['user_id']!r} {why}. Is it the user's id?")
        time = facts[roles["timestamp"]]
        if len(time.formats) > 1:
            self._ask("timestamp", f"{' and '.join(time.formats)} fit, since no day is above 12. Which format is it?")
        if "channel" in asked and roles.get("propensity", "propensity") != "propensity":
            self._ask("propensity", f"is it the probability of the channel in {roles['channel']!r}?")
        free = facts.keys() - roles.values()
        self.outcomes = {name for name in free if _AFTERWARDS & {*_words(name).split("_")}}
        if "decimal" in self.profile.file and self.profile.file.get("separator") != ";":
            self._ask("file", "commas are read as decimal marks. If they group thousands, delete decimal")
        by_name = {"click", "conversion", "revenue"} & {*roles, *self.comments}
        if not by_name and not any(facts[name].outcome for name in self.outcomes):
            self._ask("click", "no column has the name of an outcome. To name one: --column click=NAME")
        for about, words in (_NOTES | {role: words for role, (_, words) in _ABSENT.items()}).items():
            if about not in roles:
                self._note(about, words)
        self.channels = self._channels()
        self.fixed = self._same_for_each_user([name for name in free if not self._unused(facts[name])])

    def description(self) -> dict[str, Any]:
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
            # The feature store, from which serving reads static columns, does not know new users.
            "static": listed(static, missing=True),
            "outcomes": listed(outcomes, "numeric"),
            "segment": next(segments, None),
            "reward": {"gain": self._gain([names[fact.name] for fact in outcomes if fact.high > 0])},
            "currency": "currency unit",
        }
        return {name: value for name, value in fields.items() if value}

    def _find(self, role: str) -> None:
        """Find the file's column for one column of the log, or ask if only the name fits."""
        facts, rows = self.profile.facts, self.profile.rows
        called = _called(role, [name for name in facts if name not in self.roles.values()])
        fits, wanted = _FITS[role]
        fitting = [name for name in called if fits(facts[name], rows)]
        # Prefer a column with a value in every row: each row has the time of an exposure, but not of a click.
        if fitting:
            unlikely = {n for n in fitting if role == "user_id" and _unlikely_user(facts[n], rows)}
            self.roles[role] = min(fitting, key=lambda name: (name in unlikely, facts[name].present < rows))
        elif called and role not in _MUST and _meant(role, facts[called[0]]):
            self._ask(
                role,
                f"{called[0]!r} has a fitting name, but not all of its values are {wanted}. Correct the log and start "
                "again, or continue without the column",
            )

    def _channels(self) -> list[str]:
        """Return the values of the channel column, without those so rare that they are probably typos."""
        column = self.roles["channel"]
        found = self.profile.table.select(value=values.text(self.profile.table[column]).strip())["value"].value_counts()
        found = found.filter(found["value"].notnull()).order_by("value").limit(MOST_CHANNELS + 1)
        counts = {row["value"]: row["value_count"] for row in found.to_pyarrow().to_pylist()}
        if len(counts) > MOST_CHANNELS:
            raise LogError(f"{column!r} has more than {MOST_CHANNELS} values. Try another: --column channel=NAME")
        rare = [name for name, n in counts.items() if n < _RARE_ROWS and n < _RARE_SHARE * self.profile.rows]
        if not 0 < len(rare) < len(counts) - 1:
            return [*counts]
        some = ", ".join(f"{name!r} ({counts[name]})" for name in rare[:5])
        self._note(
            "channels",
            f"left out, since few rows have them: {some}{' and more' * (len(rare) > 5)}. Correct typos in the log, or "
            "exclude their rows with --bad-rows quarantine. Add values that are channels",
        )
        return [name for name in counts if name not in rare]

    def _columns(self) -> dict[str, Any]:
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
                self._note(role, "UTC, unless a time has a zone. For local times, add timezone: Europe/Berlin")
            elif role in ("cost", "revenue") and per != 1:
                self._note(role, f"{source!r} is divided by {per:,}, because of the unit in its name")
                source = {"column": source, "per": per}
            if source != role or role in self.comments:
                columns[role] = source
        return columns

    def _gain(self, further: Sequence[str]) -> str:
        """Return the outcome that a policy should maximize: the first outcome that happened at least once."""
        seen = [role for role in OUTCOMES[:3] if role in self.roles and self.profile.facts[self.roles[role]].high > 0]
        return next(iter([*seen, *further]), "click")

    def _unused(self, fact: Facts) -> str:
        """Return the reason why a column of the file is not used, or "" if it is used."""
        if fact.name in self.outcomes:
            return "" if fact.outcome else "seems to be known only after the decision, and is not numeric"
        if fact.distinct < 2:
            return "same value in every row"
        if fact.time:
            return "a time; derive a column from it, such as the hour"
        if _words(fact.name) in WORDS:
            return "has the name of a column of the log, but its values do not fit"
        if fact.whole == fact.distinct == self.profile.rows >= _FEWEST_ROWS:
            return "a different whole number in each row, like a row number or an id"
        if fact.kind == "categorical" and fact.distinct > _MOST_CATEGORIES:
            return f"text with more than {_MOST_CATEGORIES:,} different values"
        return ""

    def _same_for_each_user(self, names: Sequence[str]) -> set[str]:
        """Return the columns that have one value per user, such as a country."""
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
    """Convert a column's name to words in lower case: "Cost (micros)" becomes "cost_micros"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _called(role: str, names: Sequence[str]) -> list[str]:
    """Return the columns whose names contain a word for `role`, the best match first."""
    found = []
    for i, name in enumerate(names):
        own = _words(name)
        places = [place for place, word in enumerate(WORDS[role]) if word == own or word in own.split("_")]
        if own == role or places:
            found.append((-1 if own == role else places[0], i, name))
    return [name for *_, name in sorted(found)]


def _meant(role: str, fact: Facts) -> bool:
    """Return True if a column was probably meant for this role, although its values do not fit."""
    exact = _words(fact.name) in (role, *WORDS[role])
    few = fact.distinct <= FEW
    like = few if role in ("click", "conversion") else role in ("cost", "revenue", "propensity") and not few
    return bool(fact.present) and not fact.time and (exact or like)


def _unlikely_user(fact: Facts, rows: int) -> str:
    """Return the reason why a column probably does not contain user ids, or "" if it may."""
    if fact.distinct < _FEW_USERS and rows / max(fact.distinct, 1) > _ROWS_OF_USER:
        return f"has only {fact.distinct:,} values in {rows:,} rows, like a group of users"
    return f"has a different value in each of {rows:,} rows, like a row's id" if fact.distinct == rows > 1 else ""


def _free_names(columns: Sequence[str]) -> dict[str, str]:
    """Choose unique names for additional columns, with characters that a feature store can use."""
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
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip().removesuffix("\n...")
