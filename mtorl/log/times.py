"""Points in time as whole microseconds since 1970 (UTC), the unit of every stored time; and time zones by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(when: datetime) -> int:
    """Microseconds since 1970 of a time that has a zone."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def iso(at: int) -> str:
    """ISO 8601 text, in UTC, of microseconds since 1970."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds")


def zone(name: str) -> tzinfo:
    """A time zone by its IANA name; raises ValueError if this machine knows none of that name."""
    if name == "UTC":  # needs no database of time zones
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder of zones
        raise ValueError(
            f"{name!r} is no time zone that this machine knows; write Europe/Berlin, for instance"
        ) from None
