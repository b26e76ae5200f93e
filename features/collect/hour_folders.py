"""Names of the folders in which an engine writes each hour."""

from __future__ import annotations

from datetime import UTC, datetime

HOUR_OF = "%Y-%m-%d-%H"


def hour_in(folder: str) -> datetime:
    """The hour of a folder `hour_of=2026-11-25-20`."""
    return datetime.strptime(folder.partition("=")[2], HOUR_OF).replace(tzinfo=UTC)
