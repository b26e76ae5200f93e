"""Which pipelines run every night: a small file, and what its cron expressions mean.

    schedule = Schedule.load(Path("manifests/pipelines/schedules/production.yaml"))
    next_run("0 3 * * *", schedule.zone, datetime.now(UTC))

`pipelines/recurring.py` makes a server's recurring runs of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from mtorl.runtime.validation import FromList, StrictModel, Text, load_yaml
from pipelines.kfp_errors import RequestError

_FIELD = re.compile(r"[0-9A-Za-z*,/-]+")
_SEVEN = re.compile(r"(^|[,-])7")
_OFTEN = timedelta(minutes=10)
_MARGIN = timedelta(minutes=1)


def _cron(text: str) -> str:
    """A cron expression of five fields that KFP's library and the one here read alike."""
    from cronsim import CronSim, CronSimError

    fields = text.split()
    if len(fields) == 6:
        raise ValueError(
            f"expected five fields (minute hour day month weekday), got six in {text!r}: leave out the seconds, which "
            "are put in front for KFP"
        )
    example = "expected minute hour day month weekday, such as '0 3 * * *' for every night at three"
    if len(fields) != 5 or not all(_FIELD.fullmatch(one) for one in fields) or "L" in f"{fields[2]}{fields[4]}".upper():
        raise ValueError(f"{example}, got {text!r}")
    if _SEVEN.search(fields[4]):
        raise ValueError(f"Sunday is 0 for KFP, and not 7, got {text!r}")
    try:
        CronSim(" ".join(fields), datetime(2026, 1, 1))
    except CronSimError as error:
        raise ValueError(f"{example}, got {text!r} ({error})") from None
    return " ".join(fields)


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"expected a time zone such as UTC or Europe/Berlin, got {text!r}") from None
    return text


class RecurringRun(StrictModel):
    """A pipeline that runs again and again. Never twice at a time, and nights that were missed are not made up for."""

    name: Annotated[Text, Field(max_length=100)]
    """What the recurring run is called on the server; another name is another recurring run."""
    pipeline: Text
    """Name of an uploaded pipeline, such as mtorl-train."""
    cron: Annotated[Text, AfterValidator(_cron)]
    """When: minute, hour, day of the month, month, weekday (0 is Sunday), in the file's time zone."""
    parameters: Mapping[str, str | int | float | bool] = {}
    """Parameters of the pipeline, by name."""
    version: Text | None = None
    """A version of the pipeline, as `mtorl pipeline upload` says it; left out, each run takes the newest there is."""
    enabled: bool = True
    """false: it stays on the server, and does not run."""

    @property
    def texts(self) -> dict[str, str]:
        """The parameters as text."""
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in self.parameters.items()
        }


class Schedule(StrictModel):
    """What recurs on a Kubeflow Pipelines server: `mtorl pipeline schedule FILE` makes it so."""

    name: Annotated[Text, Field(max_length=50, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    """Of the schedule. A recurring run whose entry is gone is removed only if a schedule of this name has made it."""
    time_zone: Annotated[Text, AfterValidator(_zone)] = "UTC"
    """The time zone in which the server reads cron expressions. KFP has one for all recurring runs, UTC as shipped
    (cronScheduleTimezone of its pipeline-install-config), and does not tell it."""
    runs: Annotated[tuple[RecurringRun, ...], FromList]
    """The recurring runs."""

    @model_validator(mode="after")
    def _names_differ(self) -> Schedule:
        names = [run.name for run in self.runs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two runs have the name {twice[0]!r}")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """Of the cron expressions."""
        return ZoneInfo(self.time_zone)

    @classmethod
    def load(cls, path: Path) -> Schedule:
        """Read a file.

        Raises:
            RequestError: it can't be read, or a field is wrong.
        """
        return load_yaml(cls, path, "a schedule of pipelines", RequestError)


def kfp_cron(cron: str) -> str:
    """A cron expression as KFP takes it: with a field for seconds in front.

    Args:
        cron: Of five fields.
    """
    return f"0 {cron}"


def next_run(cron: str, zone: ZoneInfo, now: datetime) -> datetime:
    """When something is due next, in its time zone.

    Args:
        cron: Of five fields, or of six as KFP has it.
        zone: Of the expression.
        now: The present, with a time zone.
    """
    from cronsim import CronSim

    return next(CronSim(cron, now.astimezone(zone)))


def seconds_until_quiet(cron: str, zone: ZoneInfo, now: datetime) -> float:
    """How long to wait until nothing is due within a minute, nor was in the last one.

    Args:
        cron: Of five fields, or of six as KFP has it. 0 is returned for an expression that can't be read, and for one
            that is due every few minutes, for which a run more or less does not matter.
        zone: Of the expression.
        now: The present, with a time zone.
    """
    from cronsim import CronSim, CronSimError

    here = now.astimezone(zone).replace(microsecond=0)
    try:
        last = next(CronSim(cron, here + timedelta(seconds=1), reverse=True))
        following = next(CronSim(cron, here))
    except (CronSimError, StopIteration):
        return 0.0
    if following - last < _OFTEN:
        return 0.0
    near = [due for due in (last, following) if abs(here - due) < _MARGIN]
    return max(((due + _MARGIN - here).total_seconds() for due in near), default=0.0)
