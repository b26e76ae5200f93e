"""The document of an experiment, JSON-ready: the fields of `view.experiment_view`.

The page, `mtorl experiment status`, the gauges and the operator read this and nothing else. Times are ISO times in UTC,
shares are between 0 and 1, money is in currency units; null is unknown. The salt is not in it: with the salt, every
user's arm can be computed.
"""

from typing import Any, Literal, TypedDict

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
    """The next action for the owner."""

    action: Action
    condition: Condition
    headline: str
    reason: str
    code: str  # of the reason (mtorl/experiment/messages.py); empty: people wrote it
    values: dict[str, Any]  # in the reason
    tone: Tone
    command: str | None  # to copy; null: there is none


class Step(TypedDict):
    """A phase of the experiment, past or to come; steps are in order."""

    phase: str
    place: Literal["past", "skipped", "here", "ahead"]
    """skipped: a stage of the ramp before the present one, at which it never was, since a person moved it on."""
    since: str | None  # when it was entered last
    challengers: float | None  # share of the users who get a challenger; null: of a phase that is no stage
    hours: float | None  # that it lasts at least; null: the ramp says nothing of it
    users: int | None


class Need(TypedDict):
    """A condition for leaving a stage."""

    kind: str  # hours, users, fallback_ratio, latency_seconds, or counted_hours (of decisions that count; a verdict's)
    arm: str | None
    found: float
    needed: float
    met: bool
    limit: bool  # whether at most that much may be found, and not at least
    share: float  # found of needed, 1 at most
    words: str


class Next(TypedDict):
    """The next phase, and when it comes."""

    to: str | None  # the next phase of a ramp; null: findings or a person decide it
    waits: list[str]  # conditions that the stage machine waits for, in words
    codes: list[str]  # codes of `waits`, in the same order
    needs: list[Need]
    not_before: str | None  # null: that time is past, or unknown
    expected: str | None  # at the rate so far, if that is later; null: it is not, or is unknown


class Spend(TypedDict):
    """Spend of an arm from one account in its present period; arm "*": all of them together."""

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
    """All decisions of an arm, also those that do not count."""

    decisions: int
    exposures: int
    fallbacks: int
    channels: dict[str, ChannelMix]  # by the channel that was decided on


class Traffic(TypedDict):
    """Decisions of the arms in the decision log."""

    shadow: bool
    """Whether challengers were asked in the shadow only: their exposures are those that they would have made."""
    arms: dict[str, ArmTraffic]


class Newest(TypedDict):
    """The newest decision of the experiment in its log, of any stage and arm."""

    at: str
    age_seconds: float  # when the log was read
    silence: str | None  # in words, that nothing has come for long; null: it is no longer than usual


class Settled(TypedDict):
    """State of the incumbent's model server after a promotion, or its rollback."""

    done: bool
    reason: str  # in one word: those of an object's condition `Settled`
    words: str


class View(TypedDict):
    """The whole document."""

    document_version: Literal[1]
    looked: str  # when the log was read
    name: str
    hypothesis: str | None
    version: str
    problem: str | None  # why the file or the log can't be read; null: they can
    advice: Advice
    phase: str
    since: str | None  # when its time at this phase began to count
    enabled: bool  # false: the kill switch is on, by a command or in the file
    in_force: bool | None
    """Whether routers have what follows from file and history; null: unknown, no router has polled lately."""
    settled: Settled | None  # of a promotion; null: there was none, or no controller follows it for the model servers
    steps: list[Step]
    next: Next
    plan: dict[str, Any]
    """Fields as the file has them (docs/experiment-file.md), with the first of `budgets` and the number of
    `more_budgets`. An arm has its name, weight, `share` of the users now, and in words where it `answers` from."""
    verdict: dict[str, Any] | None
    """As `monitoring.verdict.verdict` gives it, perhaps with `segments`; null: there is no decision yet."""
    unit: str  # of the primary metric
    units: dict[str, str]  # of each metric of the file
    currency: str  # of spend and budgets
    spend: list[Spend]
    traffic: Traffic | None
    newest: Newest | None  # null: no decision of it is in the log
    events: list[dict[str, Any]]
    """Its history: number, at, what, by, reason, challenger, version and evidence of each event."""
