"""Defines the document of an experiment: a JSON-ready description of its plan, state, figures and advice.

Times are ISO times in UTC, and money is in currency units. The document must not contain the experiment's salt, because
a reader could compute each user's arm from the salt.
"""

from typing import Any, Literal, TypedDict

DOCUMENT_VERSION: Literal[1] = 1

Tone = Literal["good", "alarm", "open"]
Condition = Literal["fine", "held", "harm"]
"""Condition of an experiment. fine: it continues or has ended. held: it waits until a person acts. harm: it was rolled
back automatically, or the kill switch is on."""
Action = Literal[
    "start", "wait", "run", "promote", "find out", "look", "move on", "mend", "resume or stop", "nothing", "try again"
]
"""The action that is recommended to a person."""


class Advice(TypedDict):
    """The recommended next action."""

    action: Action
    condition: Condition
    headline: str
    reason: str
    # Empty if a person wrote the reason.
    code: str
    # Values in the text of the reason.
    values: dict[str, Any]
    tone: Tone
    # Shell command that carries out the action; null if there is none.
    command: str | None


class Step(TypedDict):
    """A phase of the experiment, such as "draft", "5%" or "promoted"."""

    phase: str
    place: Literal["past", "skipped", "here", "ahead"]
    """Position relative to the current phase. skipped: a person has moved the experiment past this stage."""
    # Time of the last entry into this phase.
    since: str | None
    # Share of the users who get a challenger; null if the phase is no stage.
    challengers: float | None
    # Minimum duration from the ramp, in hours.
    hours: float | None
    # Minimum number of users from the ramp.
    users: int | None


class Need(TypedDict):
    """A condition for leaving the stage, such as a minimum number of users."""

    # One of hours, users, fallback_ratio, latency_seconds, and counted_hours (hours that count in the verdict).
    kind: str
    arm: str | None
    found: float
    needed: float
    met: bool
    # Whether `needed` is a maximum, such as a latency limit.
    limit: bool
    # found / needed, at most 1.
    share: float
    words: str


class Next(TypedDict):
    """The next phase of the experiment, its expected time, and the open conditions."""

    # Null if a person must decide first.
    to: str | None
    # Open conditions as sentences.
    waits: list[str]
    # Message codes of `waits`.
    codes: list[str]
    needs: list[Need]
    # Earliest time of the next move; null if this time is past or unknown.
    not_before: str | None
    # Forecast from the rate of new users; null if `not_before` is later.
    expected: str | None


class Spend(TypedDict):
    """Money that an arm ("*" for all arms) has spent in the current budget period."""

    arm: str
    campaign: str
    channel: str
    period: str
    limit: float
    spent: float
    reserved: float


class ChannelMix(TypedDict):
    """Number of an arm's decisions for one channel, and how many of them showed an ad."""

    decisions: int
    exposures: int


class ArmTraffic(TypedDict):
    """All decisions of an arm, including decisions that do not count in the verdict."""

    decisions: int
    exposures: int
    fallbacks: int
    # Decisions and exposures by channel.
    channels: dict[str, ChannelMix]


class Traffic(TypedDict):
    """The decisions of each arm."""

    shadow: bool
    """Whether the challengers have answered only at the stage `shadow`. Their exposures are then hypothetical."""
    arms: dict[str, ArmTraffic]


class Newest(TypedDict):
    """The newest decision of the experiment."""

    at: str
    # Age when the log was read.
    age_seconds: float
    # Warning that no decision has arrived for an unusually long time.
    silence: str | None


class Settled(TypedDict):
    """Whether the incumbent's server already serves the promoted model or, after a rollback, the previous model."""

    done: bool
    # One word, such as "RollingOut".
    reason: str
    words: str


class View(TypedDict):
    """The document of an experiment."""

    document_version: Literal[1]
    # Time at which the log was read.
    looked: str
    name: str
    hypothesis: str | None
    version: str
    # Reason why the experiment file or the log can't be read.
    problem: str | None
    advice: Advice
    phase: str
    # Start of this phase, from which the ramp counts hours.
    since: str | None
    # False while the kill switch is on.
    enabled: bool
    in_force: bool | None
    """Whether all routers apply the current file and state of the experiment; null: no router has asked the operator
    recently."""
    # Null without a promotion, or if no operator manages the servers.
    settled: Settled | None
    steps: list[Step]
    next: Next
    plan: dict[str, Any]
    """Fields of the experiment file (docs/experiment-file.md), but only the first `budgets`, and the number of the
    others as `more_budgets`. For each arm: its name, its weight, its current `share` of the users, and in words where
    its `answers` come from."""
    verdict: dict[str, Any] | None
    """The result of `monitoring.verdict.verdict`, possibly with `segments`; null: there is no decision yet."""
    # Unit of the primary metric.
    unit: str
    # Unit of each metric.
    units: dict[str, str]
    # Currency of `spend` and the budgets.
    currency: str
    spend: list[Spend]
    traffic: Traffic | None
    newest: Newest | None
    events: list[dict[str, Any]]
    """The events of the experiment's history. Each has number, at, what, by, reason, challenger, version and evidence.
    """
