"""The document of an experiment, JSON-ready: the fields of `view.experiment_view`.

The page, `mtorl experiment status`, the gauges and the operator read only this document. Times are ISO times in UTC,
shares are between 0 and 1, money is in currency units, and null means unknown. The document never contains the salt,
from which every user's arm could be computed.
"""

from typing import Any, Literal, TypedDict

DOCUMENT_VERSION: Literal[1] = 1

Tone = Literal["good", "alarm", "open"]
Condition = Literal["fine", "held", "harm"]
"""fine: the experiment continues, or is over. held: it waits until a person acts. harm: the ramp has rolled it back, or
the kill switch is on."""
Action = Literal[
    "start", "wait", "run", "promote", "find out", "look", "move on", "mend", "resume or stop", "nothing", "try again"
]
"""The recommended action of a person."""


class Advice(TypedDict):
    """The recommended action of the owner."""

    action: Action
    condition: Condition
    headline: str
    reason: str
    code: str  # the reason's code (mtorl/experiment/messages.py); empty if a person wrote the reason
    values: dict[str, Any]  # values in the reason's message
    tone: Tone
    command: str | None  # command to copy; null: no command applies


class Step(TypedDict):
    """A past, present or future phase of the experiment; steps are in order."""

    phase: str
    place: Literal["past", "skipped", "here", "ahead"]
    """skipped: a person has moved the experiment past this stage of the ramp."""
    since: str | None  # when the phase was last entered
    challengers: float | None  # share of the users who get a challenger; null: the phase is no stage
    hours: float | None  # minimum duration by the ramp; null: the ramp has no such stage
    users: int | None  # minimum number of users by the ramp; null: likewise


class Need(TypedDict):
    """A condition for leaving a stage."""

    kind: str  # hours, users, fallback_ratio, latency_seconds, or counted_hours (of the verdict's decisions)
    arm: str | None
    found: float
    needed: float
    met: bool
    limit: bool  # whether `needed` is a maximum, and not a minimum
    share: float  # found / needed, at most 1
    words: str


class Next(TypedDict):
    """The next phase, and its expected time."""

    to: str | None  # the next phase of the ramp; null: findings or a person decide
    waits: list[str]  # conditions that the stage machine waits for, in words
    codes: list[str]  # codes of `waits`, in the same order
    needs: list[Need]
    not_before: str | None  # null: this time is past or unknown
    expected: str | None  # forecast from the rate so far, if later than `not_before`; else null


class Spend(TypedDict):
    """Spend of an arm from one account in the account's present period; arm "*" is all arms together."""

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
    """All decisions of an arm, including those that do not count."""

    decisions: int
    exposures: int
    fallbacks: int
    channels: dict[str, ChannelMix]  # by the chosen channel


class Traffic(TypedDict):
    """Decisions of the arms in the decision log."""

    shadow: bool
    """Whether challengers have answered only in the shadow; their exposures are then hypothetical."""
    arms: dict[str, ArmTraffic]


class Newest(TypedDict):
    """The newest decision of the experiment in its log, of any stage and arm."""

    at: str
    age_seconds: float  # at the time when the log was read
    silence: str | None  # message about an unusually long gap since then; null: the gap is not unusual


class Settled(TypedDict):
    """State of the incumbent's model server after a promotion, or its rollback."""

    done: bool
    reason: str  # one word, as in an object's condition `Settled`
    words: str


class View(TypedDict):
    """The whole document."""

    document_version: Literal[1]
    looked: str  # when the log was read
    name: str
    hypothesis: str | None
    version: str
    problem: str | None  # why the file or the log can't be read; null: both can be read
    advice: Advice
    phase: str
    since: str | None  # start of the time that counts for this phase
    enabled: bool  # false: the kill switch is on, by a command or in the file
    in_force: bool | None
    """Whether all routers apply the state that follows from file and history; null: no router has polled lately."""
    settled: Settled | None  # state of a promotion; null: no promotion, or no operator manages the servers
    steps: list[Step]
    next: Next
    plan: dict[str, Any]
    """Fields of the file (docs/experiment-file.md), with the first `budgets` and the number of `more_budgets`. An arm
    has its name, weight, present `share` of the users, and the source of its `answers` in words."""
    verdict: dict[str, Any] | None
    """As `monitoring.verdict.verdict` returns it, possibly with `segments`; null: there is no decision yet."""
    unit: str  # of the primary metric
    units: dict[str, str]  # of each metric of the file
    currency: str  # of spend and budgets
    spend: list[Spend]
    traffic: Traffic | None
    newest: Newest | None  # null: the log has no decision of the experiment
    events: list[dict[str, Any]]
    """The history: number, at, what, by, reason, challenger, version and evidence of each event."""
