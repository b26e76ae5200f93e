"""The monitor's state between checks: one JSON file, replaced atomically.

The exporter, `mtorl monitor status` and the next check read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from monitoring import messages
from monitoring.watch.stream_names import COLUMNS, column_stream, labels_of
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing
from mtorl.runtime.locks import locked

_KEPT_ACCEPTANCES = 99

STATE_FILE = "state.json"
_LOCK = ".lock"

Kind = Literal["harm", "data_quality", "drift"]
Reason = Literal[
    "no_decisions",  # in the period
    "closed",  # the period has no decisions, as usual at this time of the week
    "no_outcomes",  # no exposure has an outcome: perhaps none was reported
    "late_outcomes",  # far fewer exposures than usual have an outcome: the period is judged later
    "future_times",  # many decisions are dated after the check
    "too_few_users",
    "no_model",  # no model took a decision, or its artifact was not found
    "unreadable_log",
    "other_columns",  # the columns of the artifact and the data set's description differ
    "learning",  # too few past periods yet: no fault
    "nothing_there",  # the deciding policies do not log such values: no fault
]
Word = Literal["fine", "moved", "harm", "not judged"]
"""Result of a check. Harm: gain or money is lost, or a column has lost its values."""
NO_FAULT: tuple[Reason, ...] = ("learning", "nothing_there", "closed")


class StateError(InputError):
    """The file can't be used; the message tells what to correct."""


class BusyError(Exception):
    """Another process has locked the state."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the state in a folder against other writers. Raises BusyError if another process has the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _LOCK, BusyError(messages.CHECK_AT_WORK(folder=folder))):
        yield


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NotJudged(_Part):
    """The reason why the newest period of a group was not judged."""

    reason: Reason
    text: str


class Alarm(_Part):
    """An alarm, which stays active until its evidence is gone."""

    kind: Kind
    since: AwareDatetime  # start of the first unusual period; for a broken column, the check that found it first
    text: str
    arms: list[str] = Field(default_factory=list)  # the challengers that cause harm, such as spring/challenger


class PastPeriod(_Part):
    """A measure of a past period."""

    end: AwareDatetime
    value: float
    se: float = 0.0
    evident: bool = False  # the value was unusual; a column: above its threshold, unexplained by a season
    alarmed: bool = False  # because of an alarm, it is not a healthy period


class Stream(_Part):
    """One measure or column over periods."""

    value: float | None = None  # in the newest period; for a column, its distance to the training sample
    expected: float | None = None  # from earlier periods; for a column, its threshold. None: too few periods yet.
    low: float | None = None  # 95 of 100 healthy periods are between low and high
    high: float | None = None
    evidence: float = 0.0  # see `mtorl.drift.evidence`; for a column, of the last two periods
    needed: float = Field(default=1.0, gt=0)  # evidence at which this stream raises an alarm on its own
    loss: float | None = None  # loss of gain or money per period by the difference, in `loss_unit`
    loss_unit: str = ""
    alarm: Alarm | None = None
    past: list[PastPeriod] = Field(default_factory=list)  # the newest last

    def add(self, period: PastPeriod, keep: int) -> None:
        """Add a period, and keep at most `keep` healthy and `keep` other ones.

        While an alarm is active, the new period and the unusual periods before it are not healthy. Otherwise, a change
        that takes some periods to detect would become the expected value.
        """
        self.past.append(period)
        if self.alarm is not None:
            period.alarmed = True
            for before in self._leading_up(self.past[:-1]):
                before.alarmed = True
        kept = [*[p for p in self.past if not p.alarmed][-keep:], *[p for p in self.past if p.alarmed][-keep:]]
        self.past = sorted(kept, key=lambda each: each.end)

    def unusual_since(self, end: datetime, length: timedelta) -> datetime:
        """Start of the uninterrupted unusual periods that a new period with this end continues."""
        return min([end, *(before.end for before in self._leading_up(self.past))]) - length

    @staticmethod
    def _leading_up(past: list[PastPeriod]) -> list[PastPeriod]:
        return list(takewhile(lambda before: before.evident and not before.alarmed, reversed(past)))


class Group(_Part):
    """The newest judged period of a group of measures."""

    end: AwareDatetime | None = None
    decisions: int = 0
    users: int = 0
    not_judged: NotJudged | None = None


class RetrainRequest(_Part):
    """A request for a training, whose model must pass the usual gate."""

    since: AwareDatetime
    reason: str
    model_version: str


class Acceptance(_Part):
    """A note that a person has accepted the present values of a measure as healthy."""

    stream: str
    at: AwareDatetime
    reason: str


class State(_Part):
    """The whole state.

    Attributes:
        broken: Alarms on columns without usable values in the last hours, by column.
        heard: Shares of exposures with any known outcome, for the newest periods.
    """

    version: Literal[1] = 1
    checked: AwareDatetime | None = None
    hours: int = 24  # length of a period
    judged_until: AwareDatetime | None = None  # end of the newest period that was judged
    model_version: str = ""  # version of the model that gave the training sample
    groups: dict[str, Group] = Field(default_factory=dict)
    streams: dict[str, Stream] = Field(default_factory=dict)
    columns_evidence: float = 0.0  # evidence that any column has moved
    broken: dict[str, Alarm] = Field(default_factory=dict)
    incumbent: str = ""  # the policy that took the incumbent's newest decision
    heard: list[float] = Field(default_factory=list)
    newest_model: AwareDatetime | None = None  # when the newest model that needs no experiment was trained
    retrain: RetrainRequest | None = None
    requested: AwareDatetime | None = None  # end of the period for which the last request was made
    accepted: list[Acceptance] = Field(default_factory=list)  # the newest last

    @classmethod
    def read(cls, path: Path) -> State:
        """The stored state, or a new one if there is no file. Raises StateError if the file can't be read."""
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise StateError(f"{path}: can't be read: {error.strerror}") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            why = f"not a monitor's state: {where + ': ' if where else ''}{first['msg']}"
            raise StateError(f"{path}: {why}. Move the file away: the monitor rebuilds it from the log") from None

    def write(self, path: Path) -> None:
        """Replace the file atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=True) as unfinished:
            unfinished.write_text(self.model_dump_json(indent=1) + "\n")

    def alarms(self) -> dict[str, Alarm]:
        """The active alarms, by stream."""
        raised = {name: stream.alarm for name, stream in self.streams.items() if stream.alarm is not None}
        return {**raised, **{column_stream(name): alarm for name, alarm in self.broken.items()}}

    @property
    def word(self) -> Word:
        """The worst finding as one word."""
        kinds = {alarm.kind for alarm in self.alarms().values()}
        if kinds - {"drift"}:
            return "harm"
        faults = [group.not_judged for group in self.groups.values() if group.not_judged is not None]
        if self.checked is None or any(why.reason not in NO_FAULT for why in faults):
            return "not judged"
        return "moved" if kinds else "fine"

    def __str__(self) -> str:
        """The word, each active alarm, and each group that could not be judged, on separate lines."""
        lines = [self.word, *(f"{alarm.kind}: {name}: {alarm.text}" for name, alarm in sorted(self.alarms().items()))]
        faults = [(name, group.not_judged) for name, group in self.groups.items() if group.not_judged is not None]
        return "\n".join([*lines, *(f"{name} could not be judged, {why.reason}: {why.text}" for name, why in faults)])

    def accept(self, stream: str, reason: str, at: datetime) -> None:
        """Accept the present value of a measure as healthy, so that its expected value is learnt again.

        Raises StateError for a column, whose reference belongs to a model.
        """
        measures = sorted(name for name in self.streams if labels_of(name).group != COLUMNS)
        if stream not in measures:
            raise StateError(f"{stream}: no measure of this state; known: {', '.join(measures) or 'none'}")
        self.streams[stream] = Stream(value=self.streams[stream].value)
        self.accepted = [*self.accepted[-_KEPT_ACCEPTANCES:], Acceptance(stream=stream, at=at, reason=reason)]
