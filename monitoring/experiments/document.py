"""Defines the document of an experiment: a JSON-ready description of its plan, state, figures and advice.

`view.experiment_view` builds the document. The page, `mtorl experiment status`, the gauges and the operator read
nothing else. Times are ISO times in UTC, shares are between 0 and 1, money is in currency units, and null means
unknown.

The document never contains the experiment's salt, because the arm of every user could be computed from the salt.
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
    """The action that is recommended to the owner of the experiment."""

    action: Action
    condition: Condition
    headline: str
    reason: str
    # Code of the reason (mtorl/experiment/messages.py). It is empty if a person wrote the reason.
    code: str
    # Values that were inserted into the text of the reason.
    values: dict[str, Any]
    tone: Tone
    # Shell command for the owner to copy; null if no command carries out the action.
    command: str | None


class Step(TypedDict):
    """A phase of the experiment, such as "draft", "5%" or "promoted". Phases are listed in the order of time."""

    phase: str
    place: Literal["past", "skipped", "here", "ahead"]
    """Position relative to the current phase. skipped: a person has moved the experiment past this stage."""
    # Time at which the experiment last entered this phase.
    since: str | None
    # Share of the users who get a challenger in this phase; null for a phase that is no stage, such as "draft".
    challengers: float | None
    # Minimum duration of this stage in hours, from the ramp in the experiment file; null if the ramp does not have this
    # stage.
    hours: float | None
    # Minimum number of users at this stage, from the ramp in the experiment file; null if the ramp does not have this
    # stage.
    users: int | None


class Need(TypedDict):
    """A condition that must be met before the experiment can leave its stage, such as a minimum number of users."""

    # One of hours, users, fallback_ratio, latency_seconds, and counted_hours (hours that count in the verdict).
    kind: str
    arm: str | None
    found: float
    needed: float
    met: bool
    # True if `needed` is a maximum, such as a latency limit. False if `needed` is a minimum.
    limit: bool
    # The fraction found / needed, at most 1.
    share: float
    words: str


class Next(TypedDict):
    """The next phase of the experiment, when it is expected, and what the experiment waits for."""

    # Name of the next phase. Null if there is none, for example because a person must decide first.
    to: str | None
    # The conditions that the stage machine waits for, as sentences.
    waits: list[str]
    # The message codes of `waits`, in the same order.
    codes: list[str]
    needs: list[Need]
    # Earliest time of the next move; null if this time is past or unknown.
    not_before: str | None
    # Forecast of the time of the next move, if users keep arriving at the rate so far. Null if the move is already
    # expected at `not_before`.
    expected: str | None


class Spend(TypedDict):
    """Money that an arm has spent in the current period of one budget account. The arm "*" stands for all arms."""

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
    # Decisions and exposures for each chosen channel.
    channels: dict[str, ChannelMix]


class Traffic(TypedDict):
    """The decisions of each arm in the decision log."""

    shadow: bool
    """Whether the challengers have answered only at the stage `shadow`. Their exposures are then hypothetical."""
    arms: dict[str, ArmTraffic]


class Newest(TypedDict):
    """The newest decision of the experiment in the log, at any stage and of any arm."""

    at: str
    # Age of the decision at the time when the log was read, in seconds.
    age_seconds: float
    # Message that no decision has arrived for an unusually long time; null if the time is not unusual.
    silence: str | None


class Settled(TypedDict):
    """Whether the incumbent's server already serves the promoted model or, after a rollback, the previous one."""

    done: bool
    # The reason as one word, such as "RollingOut".
    reason: str
    words: str


class View(TypedDict):
    """The whole document of an experiment."""

    document_version: Literal[1]
    # Time at which the log was read.
    looked: str
    name: str
    hypothesis: str | None
    version: str
    # Reason why the experiment file or the log can't be read; null if both can be read.
    problem: str | None
    advice: Advice
    phase: str
    # Time from which the ramp counts the hours of this phase.
    since: str | None
    # False while the kill switch is on. A person turns it on by a command, or by `enabled: false` in the experiment
    # file.
    enabled: bool
    in_force: bool | None
    """Whether all routers apply the current file and state of the experiment; null: no router has asked the operator
    recently."""
    # Whether the incumbent's server serves the promoted model; null without a promotion, or if no operator manages the
    # servers.
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
    # Unit of each metric that the experiment file uses, by the name of the metric.
    units: dict[str, str]
    # Currency of `spend` and of the budgets.
    currency: str
    spend: list[Spend]
    traffic: Traffic | None
    # Null if the log has no decision of this experiment.
    newest: Newest | None
    events: list[dict[str, Any]]
    """The events of the experiment's history. Each has number, at, what, by, reason, challenger, version and evidence.
    """
