"""Everything known of an experiment, as one JSON-ready document: the fields of `view.experiment_view`.

Whoever shows an experiment (the page, `mtorl experiment status`, the gauges, the operator) reads this and
nothing else. Times are ISO times in UTC, shares are between 0 and 1, money is in currency units; what is not known is
null. The salt is not in it: who knows it can tell every user's arm.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from monitoring.verdict.long_term import LongTerm

DOCUMENT_VERSION: Literal[1] = 1

Tone = Literal["good", "alarm", "open"]
Condition = Literal["fine", "held", "harm"]
"""fine: it goes on by itself, or is over. held: nothing goes on until a person has done something. harm: it was rolled
back by the ramp, or the kill switch is on."""
Action = Literal[
    "start", "wait", "run", "promote", "find out", "look", "move on", "mend", "resume or stop", "nothing", "try again"
]
"""What a person should do."""


class Advice(TypedDict):
    """What should I do?"""

    action: Action
    condition: Condition
    headline: str
    reason: str
    tone: Tone
    command: str | None
    """To copy; null: there is none."""


class Step(TypedDict):
    """A phase that the experiment was in, is in, or may come to, in their order."""

    phase: str
    place: Literal["past", "skipped", "here", "ahead"]
    """skipped: a stage of the ramp before the present one, at which it never was, since a person moved it on."""
    since: str | None
    """When it was entered last."""
    challengers: float | None
    """Share of the users who get a challenger; null: of a phase that is no stage."""
    hours: float | None
    """That it lasts at least; null: the ramp says nothing of it."""
    users: int | None


class Need(TypedDict):
    """One of the things that leaving a stage takes."""

    kind: str
    """hours, users, fallback_ratio, latency_seconds, or counted_hours (of decisions that count; a verdict's)."""
    arm: str | None
    found: float
    needed: float
    met: bool
    label: str


class Next(TypedDict):
    """What happens next, and when."""

    to: str | None
    """The next phase, if it goes on by itself; null: that depends on what is found, or on a person."""
    words: str
    waits: list[str]
    needs: list[Need]
    not_before: str | None
    """null: that time is past, or nobody knows it."""
    expected: str | None
    """At the rate so far, if that is later; null: it is not, or can't be told."""


class ArmPlan(TypedDict):
    """An arm as the file has it."""

    name: str
    weight: float
    share: float
    """Of the users, now."""
    answers: str
    """Where its decisions come from, in words."""


class Plan(TypedDict):
    """The decision plan: what was agreed on before anything was seen."""

    owner: str
    start: str | None
    planned_end: str | None
    alpha: float
    min_runtime_hours: float
    unit: str
    layer: str
    layer_part: list[float]
    holdout: float
    """Share of the users who are in no arm."""
    arms: list[ArmPlan]
    minimum_effect: float | None
    """By which share the primary metric must be larger to be worth finding; null: nobody said."""
    covariates: dict[str, Any] | None
    """What is known of users beforehand and makes intervals narrower, as the file has it."""
    metrics: dict[str, Any]
    """As the file has them: primary, secondary, guardrails, outcome_hours."""
    ramp: dict[str, Any] | None
    budgets: list[dict[str, Any]]


class Spend(TypedDict):
    """What an arm has spent of one account in its present period; arm "*": all of them together."""

    arm: str
    campaign: str
    channel: str
    period: str
    limit: float
    spent: float
    reserved: float


class ChannelMix(TypedDict):
    """An arm's decisions in one channel."""

    decisions: int
    exposures: int


class ArmTraffic(TypedDict):
    """All decisions of an arm, whether they count or not."""

    decisions: int
    exposures: int
    fallbacks: int
    channels: dict[str, ChannelMix]
    """By the channel that was decided on."""


class Traffic(TypedDict):
    """What the decision log says of the arms."""

    first: str | None
    last: str | None
    shadow: bool
    """Whether challengers were asked in the shadow only: their exposures are those that they would have made."""
    arms: dict[str, ArmTraffic]


class Newest(TypedDict):
    """The newest decision of the experiment in its log, of whatever stage and arm."""

    at: str
    age_seconds: float
    """When the log was read."""
    longest_seconds: float
    """The longest time without a decision in the week before it, to the minute."""
    silence: str | None
    """In words, that nothing has come for long; null: it is no longer than usual."""


class Settled(TypedDict):
    """How far the incumbent's model server follows a promotion, or its rollback."""

    done: bool
    reason: str
    """In one word: those of an object's condition `Settled`."""
    words: str


class Happened(TypedDict):
    """An event of the history."""

    number: int
    at: str
    what: str
    by: str
    reason: str
    challenger: str | None
    version: str
    evidence: dict[str, Any] | None


class View(TypedDict):
    """All that is known of an experiment."""

    document_version: Literal[1]
    looked: str
    """When the log was read."""
    name: str
    hypothesis: str | None
    version: str
    problem: str | None
    """Why the file or the log can't be read; null: they can."""
    advice: Advice
    phase: str
    since: str | None
    """When its time at this phase began to count."""
    enabled: bool
    """false: the kill switch is on, by a command or in the file."""
    in_force: bool | None
    """Whether routers have what follows from file and history; null: none has asked lately, so nobody knows."""
    settled: Settled | None
    """Of a promotion; null: there was none, or nobody follows it for the model servers."""
    steps: list[Step]
    next: Next
    plan: Plan
    verdict: dict[str, Any] | None
    """As `monitoring.verdict.verdict` gives it, perhaps with `segments`; null: nobody has decided yet."""
    long_term: LongTerm | None
    """Of a promotion, against the holdout; null: nobody was promoted, or nobody is held out."""
    unit: str
    """Of the primary metric."""
    units: dict[str, str]
    """Of each metric of the file."""
    currency: str
    """Of spend and budgets."""
    spend: list[Spend]
    traffic: Traffic | None
    newest: Newest | None
    """null: no decision of it is in the log."""
    events: list[Happened]
