"""Converts times to and from microseconds since 1970 (UTC), and looks up time zones."""

from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(when: datetime) -> int:
    """Convert a time with a time zone to microseconds since 1970."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def iso(at: int) -> str:
    """Convert microseconds since 1970 to ISO 8601 text in UTC."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds")


def zone(name: str) -> tzinfo:
    """Return a time zone by its IANA name, such as Europe/Berlin.

    Raises:
        ValueError: the time zone is unknown.
    """
    if name == "UTC":  # works without a database of time zones
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError if the name is a folder of time zones
        raise ValueError(
            f"{name!r} is not in this computer's time zone database; an example is Europe/Berlin"
        ) from None


def moment(value: object) -> datetime:
    """Convert a value from YAML or JSON to a time in UTC.

    Raises:
        ValueError: the value is not a time, or has no time zone.
    """
    at = value
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
    if not isinstance(at, datetime) or at.tzinfo is None:
        given = value.isoformat() if isinstance(value, date) else repr(value)
        raise ValueError(f"expected a time with its zone, such as 2026-12-01T09:00:00+01:00, got {given}")
    try:
        return at.astimezone(UTC)
    except OverflowError:  # before year 1 or after year 9999 in UTC
        raise ValueError(f"expected a time between the years 1 and 9999 in UTC, got {at.isoformat()}") from None
