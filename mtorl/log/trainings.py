"""Notes on each training, its input and its result: one line each, for the next training to compare its log with.

    seen = LogFacts.of(log)                          # log: folder with touchpoints.parquet and dataset.yaml
    lost = seen.lost_since(newest(history).log)      # in words; "" if nothing is
    add(history, Training(at=now, log=seen, decision="promote", reason="..."))

A log grows, and its oldest days may go. But a day that both logs have must not hold less than before: an export that
was cut off trains a model of half a log, and every check of that log alone would pass it.
"""

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
"""In `INGEST_FILE` of a log of which a training reads a part: `share` and `days`, as in `LogFacts`."""
LOST = 0.01
"""Share of the touchpoints of the common days that may be missing: users may have been forgotten since."""
_KEPT = 1_000
_DAY = "%Y-%m-%d"


class LogFacts(BaseModel):
    """Figures of a log with which the next one is compared."""

    dataset: str  # name of its description
    channels: tuple[str, ...]
    days: dict[str, int]  # touchpoints a day (UTC, as 2026-11-29), without own decisions that were added
    share: float = 1.0  # of all touchpoints, own decisions among them, that the training read (`most_touchpoints`)

    @classmethod
    def of(cls, log: Path) -> LogFacts:
        """The facts of the folder of a log; those of its part that a training reads are no loss."""
        spec = DatasetSpec.load(log / DATASET_FILE)
        noted = json.loads((log / INGEST_FILE).read_text()) if (log / INGEST_FILE).exists() else {}
        whole = noted.get(READ) or {"days": days_of(log / LOG_FILE)}
        return cls(dataset=spec.name, channels=spec.channels, **whole)

    def lost_since(self, before: LogFacts) -> str:
        """Text on what this log lacks of an earlier one since its own first day; "" if hardly anything."""
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
            f"the log has lost {lost:,} of {had:,} touchpoints since the newest training, most of them on {worst}: "
            f"{self.days.get(worst, 0):,} of {common[worst]:,}"
        )

    def new_channels(self, before: LogFacts) -> tuple[str, ...]:
        """Channels that the description did not name before."""
        return tuple(channel for channel in self.channels if channel not in before.channels)


def days_of(log: Path) -> dict[str, int]:
    """Touchpoints a day of a log, a file or a folder of parts, without own decisions; it is read in parts."""
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
    """A training that came to its end."""

    at: AwareDatetime  # when the gate decided
    run: str = ""  # id of the pipeline's run
    log: LogFacts
    decision: str  # promote, experiment or reject
    reason: str  # the gate's, in words
    lift: float | None = None  # challenger minus incumbent, gain per opportunity, off-policy
    lift_ci: tuple[float, float] | None = None  # 95 % interval


def add(history: Path, training: Training) -> None:
    """Keep a training as the newest, in a folder that is made if needed; of one run only its last one is kept."""
    history.mkdir(parents=True, exist_ok=True)
    # Two runs may end at once, and each holds it for the moment of a write.
    with locked(history / ".lock", TimeoutError(f"{history}: another run has held it for a minute"), wait_seconds=60):
        kept = [one for one in read(history) if not (training.run and one.run == training.run)]
        with replacing(history / FILE, durable=True) as unfinished:
            unfinished.write_text("".join(f"{one.model_dump_json()}\n" for one in [*kept, training][-_KEPT:]))


def newest(history: Path) -> Training | None:
    """The training that ended last, if any."""
    trainings = read(history)
    return trainings[-1] if trainings else None


def read(history: Path) -> list[Training]:
    """All trainings that are kept, the newest last; a line that can't be read is left out."""
    try:
        lines = (history / FILE).read_text().splitlines()
    except FileNotFoundError:
        return []
    trainings = []
    for line in lines:
        with suppress(ValidationError):
            trainings.append(Training.model_validate_json(line))
    return trainings
