"""Assigns roles to columns: by name where the values fit, as a question where the fit is unlikely.

A user is likely if it has several rows, and not a large share of them. A channel is likely if the log's propensity is
that of it: one over the probability of what was chosen is, on average, the number of choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from features.ingest.profile.facts import FEW, Facts, day_or_month, rank, words
from mtorl.log.touchpoints import CREATED, LogError

MOST_CHANNELS = 50
_MOST_CHOICES = 200  # channels of a log whose propensity shows that they are
_ROWS_OF_USER, _FEW_USERS = 100, 500  # more rows each of fewer users: a group of users rather than a user
_FIT = (0.5, 1.25)  # times the number of channels: the mean of 1 / propensity; a request may lack some candidates

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
_CONTENT: Mapping[str, Callable[[Facts, int], bool]] = {
    "user_id": lambda fact, rows: fact.present == rows and not (fact.numeric and fact.whole < rows),
    "timestamp": lambda fact, rows: fact.time,
    "campaign_id": lambda fact, rows: fact.present == rows,
    "channel": lambda fact, rows: fact.present == rows and 2 <= fact.distinct <= MOST_CHANNELS,
    "cost": lambda fact, rows: fact.numeric and fact.low >= 0,
    "click": lambda fact, rows: fact.flag,
    "conversion": lambda fact, rows: fact.flag,
    "revenue": lambda fact, rows: fact.numeric,
    "propensity": lambda fact, rows: fact.numeric and fact.low > 0 and fact.high <= 1,
    CREATED: lambda fact, rows: fact.time,
}

_WANTED = {  # of columns that a log may lack
    "campaign_id": "Name one in each row",
    "cost": "Write plain numbers of at least 0",
    "click": "Write 0 or 1",
    "conversion": "Write 0 or 1",
    "revenue": "Write plain numbers",
    "propensity": "Write probabilities above 0, or rename the column,",
}


@dataclass
class Roles:
    """The file's column for each column of the log, and questions by the column of the log that they are about."""

    columns: dict[str, str] = field(default_factory=dict)
    questions: dict[str, str] = field(default_factory=dict)

    def take(self, role: str, column: str, question: str = "") -> None:
        """Let a column be one of the log's."""
        self.columns[role] = column
        if question:
            self.questions[role] = question


def roles_of(
    path: Path, facts: Mapping[str, Facts], rows: int, named: Mapping[str, str], choices: Callable[[str], float]
) -> Roles:
    """Assign columns of a file to columns of the log.

    A person may have `named` some. `choices` is the mean of one over the values of a column.
    """
    for role, column in named.items():
        if role not in WORDS:
            turned = f"; write {column}={role}" if column in WORDS else ""
            raise LogError(f"{role}={column}: a log has no column {role!r}{turned}; it has {', '.join(WORDS)}")
        if column not in facts:
            raise LogError(f"{role}={column}: {path} has no such column; it has {', '.join(facts)}")
    roles = Roles(dict(named))
    for role in WORDS:
        if role not in named and (fitting := _by_name(role, facts, rows, roles)):
            roles.take(role, fitting)
    if "timestamp" not in roles.columns:  # whatever it is called, the only time there is
        times = [name for name in _free(facts, roles) if facts[name].time]
        if len(times) == 1:
            roles.take("timestamp", times[0])
    if "propensity" in roles.columns and "channel" not in named:
        _choose_channel(facts, rows, roles, choices(roles.columns["propensity"]))
    if "user_id" in roles.columns and "user_id" not in named:
        _choose_user(facts, rows, roles)
    missing = [role for role in _MUST if role not in roles.columns]
    if missing:
        options = " ".join(f"--column {role}=NAME" for role in missing)
        there = ", ".join(f"{name} ({fact.distinct:,} different)" for name, fact in facts.items())
        unfit = [f"\n{why}" for role in missing if (why := _misfit(role, facts, rows, roles))]
        raise LogError(
            f"{path}: which column is {' and which is '.join(missing)}? None shows it by its name and its values. "
            f"Say so: {options}{''.join(unfit)}\ncolumns in the file: {there}"
        )
    time = facts[roles.columns["timestamp"]]
    if question := day_or_month(time):
        roles.questions["timestamp"] = f"timestamp: {question}"
    elif time.days == time.times > 0:
        roles.questions["timestamp"] = (
            f"timestamp: {time.name!r} is a day without a time of day, so the order of a user's touchpoints is not "
            "known, and two of a day may be taken for one. If another column has the time, join the two in the log"
        )
    for role, wanted in _WANTED.items():
        if role not in roles.columns and role not in roles.questions and (why := _misfit(role, facts, rows, roles)):
            roles.questions[role] = f"{role}: {why}. {wanted} in the log and begin again, or go on without"
    return roles


def known_afterwards(fact: Facts) -> bool:
    """Whether a column's name says that it is an outcome."""
    return bool(_AFTERWARDS & {*words(fact.name).split("_")})


def choose_outcome(facts: Mapping[str, Facts], roles: Roles, fixed: set[str]) -> None:
    """Propose a click where no column is an outcome by its name: the first one that is yes or no."""
    if {"click", "conversion", "revenue"} & {*roles.columns, *roles.questions}:
        return
    flags = [n for n in _free(facts, roles) if facts[n].flag and facts[n].distinct == 2 and n not in fixed]
    if flags:
        others = f"; {', '.join(flags[1:])} can be, too" * (len(flags) > 1)
        roles.take(
            "click",
            flags[0],
            f"click: no column is an outcome by its name, and {flags[0]!r} is yes or no{others}. Is it what came of "
            "the exposure?",
        )
    else:
        roles.questions["click"] = (
            "click: no column is an outcome by its name or its values, so there is nothing to learn. Which column says "
            "what came of the exposure?"
        )


def _free(facts: Mapping[str, Facts], roles: Roles) -> list[str]:
    return [name for name in facts if name not in roles.columns.values()]


def _by_name(role: str, facts: Mapping[str, Facts], rows: int, roles: Roles) -> str:
    """The column whose name fits a role best among those whose values can be it; empty if there is none."""
    unlikely: Mapping[str, Callable[[Facts], bool]] = {
        "timestamp": lambda fact: fact.present < rows,  # only an exposure's own time is in every row
        "user_id": lambda fact: _unlikely_user(fact, rows) != "",
    }
    fitting = [
        (role in unlikely and unlikely[role](fact), place, i, name)
        for i, (name, fact) in enumerate(facts.items())
        if name not in roles.columns.values() and _CONTENT[role](fact, rows)
        if (place := -1 if words(name) == role else rank(name, WORDS[role])) is not None
    ]
    return min(fitting)[3] if fitting else ""


def _misfit(role: str, facts: Mapping[str, Facts], rows: int, roles: Roles) -> str:
    """Why the column whose name fits a role best can't be it; empty if there is none."""
    fitting = [
        (place, i, name)
        for i, name in enumerate(facts)
        if name not in roles.columns.values() and (place := rank(name, (role, *WORDS[role]))) is not None
        if role in _MUST or words(name) in (role, *WORDS[role]) or _like(role, facts[name])
    ]
    fact = facts[min(fitting)[2]] if fitting else None
    if fact is None or not fact.present or (role != "timestamp" and fact.time):
        return ""
    if role == "timestamp":
        why = (
            f"{fact.times:,} of {fact.present:,} values are times of a known format; docs/data.md says how to give one"
        )
    elif role in ("click", "conversion"):
        why = f"{fact.binary:,} of {fact.present:,} values are 0 or 1, true or false, yes or no"
    elif role in ("cost", "revenue", "propensity"):
        why = f"{fact.numbers:,} of {fact.present:,} values are numbers"
        if fact.numeric:
            why = f"its values are from {fact.low:g} to {fact.high:g}"
    elif fact.present < rows:
        why = f"{rows - fact.present:,} of {rows:,} rows have no value"
    else:
        why = f"it has {fact.distinct:,} different values"
    return f"{fact.name!r} is called so, but {why}"


def _like(role: str, fact: Facts) -> bool:
    """Whether values may be meant as those of a role: "click_id" and "order_id" have its word and other values."""
    if role in ("click", "conversion"):
        return fact.distinct <= FEW
    return role in ("cost", "revenue", "propensity") and fact.distinct > FEW


def _unlikely_user(fact: Facts, rows: int) -> str:
    """Why a column is hardly the user, empty if it may be."""
    if fact.distinct < _FEW_USERS and rows / max(fact.distinct, 1) > _ROWS_OF_USER:
        return f"has {fact.distinct:,} values in {rows:,} rows, as a group of users has"
    return f"has another value in each of {rows:,} rows, as no user has" if fact.distinct == rows > 1 else ""


def _choose_user(facts: Mapping[str, Facts], rows: int, roles: Roles) -> None:
    """Ask who the user is, where the column of that name is hardly it; a row of its own is the safe proposal."""
    column = roles.columns["user_id"]
    if not (why := _unlikely_user(facts[column], rows)):
        return
    ids = [
        name
        for name in _free(facts, roles)
        if facts[name].present == facts[name].distinct == rows and not facts[name].time
        if not facts[name].numeric or facts[name].whole == rows
    ]
    question = f"user_id: {column!r} {why}. Which column is the user?"
    if ids and facts[column].distinct < rows:
        question += f" With {ids[0]!r} each row is a user of its own, and nothing is learned from what came before"
        column = ids[0]
    roles.take("user_id", column, question)


def _choose_channel(facts: Mapping[str, Facts], rows: int, roles: Roles, choices: float) -> None:
    """Ask for the channel where the propensity is not that of the column of that name, and say of which it may be."""

    def fits(name: str) -> bool:
        return _FIT[0] * facts[name].distinct <= choices <= _FIT[1] * facts[name].distinct

    now, propensity = roles.columns.get("channel", ""), roles.columns["propensity"]
    if now and fits(now):
        return
    taken = {column for role, column in roles.columns.items() if role not in ("user_id", "campaign_id")}
    others = [
        name
        for name, fact in facts.items()
        if name not in taken and fact.present == rows and 2 <= fact.distinct <= _MOST_CHOICES and fits(name)
    ]
    others.sort(key=lambda name: abs(facts[name].distinct - choices))
    shown = f"the mean of 1 / {propensity} is {choices:.3g}"
    if others:
        many = f", {', '.join(map(repr, others[1:]))} fit as well" * (len(others) > 1)
        instead = f", {now!r} has {facts[now].distinct}" * bool(now)
        roles.take(
            "channel",
            others[0],
            f"channel: {others[0]!r}, since {shown}, and it has {facts[others[0]].distinct} values{many}{instead}. Is "
            f"{propensity!r} the probability of it?",
        )
        for role in ("user_id", "campaign_id"):
            if roles.columns.get(role) == others[0]:
                del roles.columns[role]
                if again := _by_name(role, facts, rows, roles):
                    roles.take(role, again)
    elif now:
        roles.questions["propensity"] = (
            f"propensity: {shown}, and {now!r} has {facts[now].distinct} values. Is {propensity!r} the probability of "
            "the channel? If not, write propensity: channel-frequency and delete its line in columns"
        )
