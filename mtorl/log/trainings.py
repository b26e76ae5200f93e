"""Records the input and the result of each training, so that the next training can detect a log that lost data."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import AwareDatetime, BaseModel, ValidationError

from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import COLLECTED, DATASET_FILE, INGEST_FILE, LOG_FILE
from mtorl.runtime.files import replacing
from mtorl.runtime.locks import locked

FILE = "trainings.jsonl"
READ = "read"
"""Key in `INGEST_FILE` that exists only if a training reads a part of the log. It contains `share` and `days` as in
`LogFacts`."""
LOST = 0.01
"""Largest share of touchpoints that may be missing since the last training, counted on the days that both logs have.
Touchpoints may be missing because users were forgotten."""
_KEPT = 1_000
_DAY = "%Y-%m-%d"


class LogFacts(BaseModel):
    """Figures about the log of a training, which the next training compares with those of its own log."""

    dataset: str
    channels: tuple[str, ...]
    # By day (UTC, such as "2026-11-29"), without our own decisions.
    days: dict[str, int]
    # Fraction of the touchpoints that the training read.
    share: float = 1.0

    @classmethod
    def of(cls, log: Path) -> LogFacts:
        """Return the figures about the log in a folder, with all its touchpoints in `days`."""
        spec = DatasetSpec.load(log / DATASET_FILE)
        noted = json.loads((log / INGEST_FILE).read_text()) if (log / INGEST_FILE).exists() else {}
        whole = noted.get(READ) or {"days": days_of(log / LOG_FILE)}
        return cls(dataset=spec.name, channels=spec.channels, **whole)

    def lost_since(self, before: LogFacts) -> str:
        """Return a message if this log lacks touchpoints that an earlier log had, else "".

        The oldest days of the earlier log are not compared, because a log may drop them.
        """
        if self.dataset != before.dataset or not self.days:
            return ""
        first = min(self.days)
        common = {day: rows for day, rows in before.days.items() if day > first}
        missing = {day: lack for day, rows in common.items() if (lack := rows - self.days.get(day, 0)) > 0}
        lost, had = sum(missing.values()), sum(common.values())
        if lost <= LOST * had:
            return ""
        worst = max(missing, key=lambda day: (missing[day], day))
        return (
            f"the log has lost {lost:,} of {had:,} touchpoints since the newest training, most of them on {worst}, "
            f"which has {self.days.get(worst, 0):,} of {common[worst]:,}"
        )

    def new_channels(self, before: LogFacts) -> tuple[str, ...]:
        """Return the channels of this log that the earlier log did not have."""
        return tuple(channel for channel in self.channels if channel not in before.channels)


def days_of(log: Path) -> dict[str, int]:
    """Count the touchpoints of each day, without those of our own decisions."""
    file = ds.dataset(log, format="parquet")
    own = [COLLECTED] if COLLECTED in file.schema.names else []
    days: dict[str, int] = {}
    for batch in file.to_batches(columns=["timestamp", *own]):
        if own:
            batch = batch.filter(pc.invert(pc.fill_null(batch[COLLECTED], False)))
        counts = pc.value_counts(pc.strftime(pc.floor_temporal(batch["timestamp"], unit="day"), format=_DAY))
        for count in counts.to_pylist():
            days[count["values"]] = days.get(count["values"], 0) + int(count["counts"])
    return dict(sorted(days.items()))


class Training(BaseModel):
    """The result of a finished training, and figures about its log."""

    at: AwareDatetime  # time of the gate's decision
    # Id of the pipeline run; empty if there was none.
    run: str = ""
    log: LogFacts
    decision: str  # promote, experiment or reject
    reason: str
    # Challenger minus incumbent, in gain per opportunity.
    lift: float | None = None
    lift_ci: tuple[float, float] | None = None  # 95 % interval


def add(history: Path, training: Training) -> None:
    """Add a training to a history, and replace older entries of the same pipeline run."""
    history.mkdir(parents=True, exist_ok=True)
    # Two runs that finish at the same time could overwrite each other's entry.
    with locked(history / ".lock", TimeoutError(f"{history}: another run locked it for a minute"), wait_seconds=60):
        kept = [one for one in read(history) if not (training.run and one.run == training.run)]
        with replacing(history / FILE, durable=True) as unfinished:
            unfinished.write_text("".join(f"{one.model_dump_json()}\n" for one in [*kept, training][-_KEPT:]))


def newest(history: Path) -> Training | None:
    """Return the newest training in a history, or None if there is none."""
    trainings = read(history)
    return trainings[-1] if trainings else None


def read(history: Path) -> list[Training]:
    """Return all stored trainings, the newest last. Lines that can't be parsed are skipped."""
    try:
        lines = (history / FILE).read_text().splitlines()
    except FileNotFoundError:
        return []
    trainings = []
    for line in lines:
        with suppress(ValidationError):
            trainings.append(Training.model_validate_json(line))
    return trainings
