"""Stores the monitor's state between checks, in one JSON file that is replaced atomically."""

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
    # No decision in the period.
    "no_decisions",
    # No decision, which is usual at this time of the week.
    "closed",
    # No exposure has an outcome, so outcomes may not be reported.
    "no_outcomes",
    # Far fewer outcomes than usual, so the period is judged later.
    "late_outcomes",
    # Many decisions are dated after the check.
    "future_times",
    "too_few_users",
    # No model took a decision, or its artifact was not found.
    "no_model",
    "unreadable_log",
    # The artifact's columns differ from the data set's description.
    "other_columns",
    # Too few past periods for a forecast; this is no fault.
    "learning",
    # The policies do not log the values that these measures need; this is no fault.
    "nothing_there",
]
Word = Literal["fine", "moved", "harm", "not judged"]
"""Result of a check. fine: nothing has changed. moved: something has changed. harm: gain or money is lost, or a column
has lost its values. not judged: the check could not be made."""
NO_FAULT: tuple[Reason, ...] = ("learning", "nothing_there", "closed")


class StateError(InputError):
    """Raised if the state file can't be used."""


class BusyError(Exception):
    """Raised if another process has locked the state."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the monitor's folder during the block. Raises BusyError if another process has locked it."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _LOCK, BusyError(messages.CHECK_AT_WORK(folder=folder))):
        yield


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NotJudged(_Part):
    """Reason why the newest period of a group could not be judged."""

    reason: Reason
    text: str


class Alarm(_Part):
    """An alarm, which stays active until the evidence for it has vanished.

    Attributes:
        since: Start of the first unusual period. For a column without values: time of the check that found it.
        arms: Challengers that cause the harm, such as "spring/challenger".
    """

    kind: Kind
    since: AwareDatetime
    text: str
    arms: list[str] = Field(default_factory=list)


class PastPeriod(_Part):
    """The value of a measure or column in a past period.

    Attributes:
        se: Standard error of the value.
        evident: Whether the value was unusual. For a column: above its threshold, and not explained by a season.
        alarmed: Whether the period belongs to a change that raised an alarm, so that it does not count as healthy.
    """

    end: AwareDatetime
    value: float
    se: float = 0.0
    evident: bool = False
    alarmed: bool = False


class Stream(_Part):
    """The time series of one measure or column.

    Attributes:
        value: Value in the newest period. For a column: its distance to the training sample.
        expected: Forecast from earlier periods; None if there are too few. For a column: its threshold.
        low: Of 100 healthy periods, 95 are between `low` and `high`.
        evidence: Evidence of a change (`mtorl.drift.evidence`). For a column: from the last two periods.
        needed: Evidence with which this stream alone raises an alarm.
        loss: Gain or money that the change has cost in the newest period, in the unit `loss_unit`.
        past: Past periods, the newest last.
    """

    value: float | None = None
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    evidence: float = 0.0
    needed: float = Field(default=1.0, gt=0)
    loss: float | None = None
    loss_unit: str = ""
    alarm: Alarm | None = None
    past: list[PastPeriod] = Field(default_factory=list)

    def add(self, period: PastPeriod, keep: int) -> None:
        """Add a period, and keep at most `keep` healthy periods and `keep` other periods.

        During an alarm, the new period and the unusual periods just before the alarm do not count as healthy.
        """
        self.past.append(period)
        if self.alarm is not None:
            period.alarmed = True
            for before in self._leading_up(self.past[:-1]):
                before.alarmed = True
        kept = [*[p for p in self.past if not p.alarmed][-keep:], *[p for p in self.past if p.alarmed][-keep:]]
        self.past = sorted(kept, key=lambda each: each.end)

    def unusual_since(self, end: datetime, length: timedelta) -> datetime:
        """Return the start of the present series of unusual periods, whose last period ends at `end`."""
        return min([end, *(before.end for before in self._leading_up(self.past))]) - length

    @staticmethod
    def _leading_up(past: list[PastPeriod]) -> list[PastPeriod]:
        return list(takewhile(lambda before: before.evident and not before.alarmed, reversed(past)))


class Group(_Part):
    """The newest period of a group of measures, and whether it could be judged."""

    end: AwareDatetime | None = None
    decisions: int = 0
    users: int = 0
    not_judged: NotJudged | None = None


class RetrainRequest(_Part):
    """A request to train a new model. Before the model serves, it must pass the usual gate."""

    since: AwareDatetime
    reason: str
    model_version: str


class Acceptance(_Part):
    """A record that a person has accepted the present value of a measure as healthy."""

    stream: str
    at: AwareDatetime
    reason: str


class State(_Part):
    """The whole state of the monitor.

    Attributes:
        checked: Time of the last check.
        hours: Length of a period.
        judged_until: End of the newest period that was judged.
        model_version: Version of the model whose training sample is compared with the columns.
        columns_evidence: Evidence that any column has moved.
        broken: Alarms on columns without usable values in the last hours, by column.
        incumbent: Policy that took the incumbent's newest decision.
        heard: Share of exposures with a known outcome, in each of the newest periods.
        newest_model: Training time of the newest model that may serve without an experiment.
        requested: End of the period for which a training was last requested.
        accepted: Values that people have accepted as healthy, the newest last.
    """

    version: Literal[1] = 1
    checked: AwareDatetime | None = None
    hours: int = 24
    judged_until: AwareDatetime | None = None
    model_version: str = ""
    groups: dict[str, Group] = Field(default_factory=dict)
    streams: dict[str, Stream] = Field(default_factory=dict)
    columns_evidence: float = 0.0
    broken: dict[str, Alarm] = Field(default_factory=dict)
    incumbent: str = ""
    heard: list[float] = Field(default_factory=list)
    newest_model: AwareDatetime | None = None
    retrain: RetrainRequest | None = None
    requested: AwareDatetime | None = None
    accepted: list[Acceptance] = Field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> State:
        """Read the state, or create it if there is no file. Raises StateError for an unreadable file."""
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
        """Return the active alarms by stream."""
        raised = {name: stream.alarm for name, stream in self.streams.items() if stream.alarm is not None}
        return {**raised, **{column_stream(name): alarm for name, alarm in self.broken.items()}}

    @property
    def word(self) -> Word:
        """Return the worst finding as one word."""
        kinds = {alarm.kind for alarm in self.alarms().values()}
        if kinds - {"drift"}:
            return "harm"
        faults = [group.not_judged for group in self.groups.values() if group.not_judged is not None]
        if self.checked is None or any(why.reason not in NO_FAULT for why in faults):
            return "not judged"
        return "moved" if kinds else "fine"

    def __str__(self) -> str:
        lines = [self.word, *(f"{alarm.kind}: {name}: {alarm.text}" for name, alarm in sorted(self.alarms().items()))]
        faults = [(name, group.not_judged) for name, group in self.groups.items() if group.not_judged is not None]
        return "\n".join([*lines, *(f"{name} could not be judged, {why.reason}: {why.text}" for name, why in faults)])

    def accept(self, stream: str, reason: str, at: datetime) -> None:
        """Accept the present value of a measure as healthy, so that its expected value is learned again.

        Raises StateError for a column, because its threshold comes from the model's training sample.
        """
        measures = sorted(name for name in self.streams if labels_of(name).group != COLUMNS)
        if stream not in measures:
            raise StateError(f"{stream}: no measure of this state; known: {', '.join(measures) or 'none'}")
        self.streams[stream] = Stream(value=self.streams[stream].value)
        self.accepted = [*self.accepted[-_KEPT_ACCEPTANCES:], Acceptance(stream=stream, at=at, reason=reason)]
