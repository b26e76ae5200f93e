"""A period of whole hours, as people name it: what of a store is collected anew."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mtorl.log.touchpoints import LogError

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Hours:
    """Hours that begin in a period.

    Attributes:
        since: Beginning of the first one.
        until: End of the last one.
    """

    since: datetime
    until: datetime

    @classmethod
    def named(cls, since: str, until: str) -> Hours:
        """The hours of a period; one that begins or ends in the middle of an hour has that hour, too.

        Args:
            since: ISO time; without a zone, UTC.
            until: Likewise, exclusive.

        Raises:
            LogError: One of them is no time, or the period is empty.
        """
        first, last = (_time(name, text) for name, text in (("since", since), ("until", until)))
        if first >= last:
            raise LogError(f"since {since} is not before until {until}: nothing lies between them")
        begun = last.replace(minute=0, second=0, microsecond=0)
        return cls(first.replace(minute=0, second=0, microsecond=0), begun if begun == last else begun + HOUR)

    def __contains__(self, hour: datetime) -> bool:
        return self.since <= hour < self.until


def _time(name: str, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise LogError(f"{name}: {text!r} is not an ISO time such as 2026-01-31T12:00:00Z") from None
