"""Age of the newest decision in the log, and whether that is long for this experiment.

newest = newest_of(log, experiment, now)        # None: there is none
newest["silence"]                               # in words, if nothing has come for long

Request rates differ by a factor of a thousand between shops, and between noon and night. So the age is compared with
the longest time without a decision in the week before: twice as long is not usual.
"""

from __future__ import annotations

from datetime import UTC, datetime

from monitoring.decision_log import DecisionLog
from monitoring.experiments.document import Newest
from monitoring.plain_words import duration
from mtorl.experiment.experiment import Experiment

_FACTOR = 2.0  # of the longest time without a decision
_LEAST = 900.0  # seconds: routers upload their logs each minute, and may wait for a lake that is away
_COMPARED_DAYS = 7  # a shop that is closed on Sundays has one in it


def newest_of(log: DecisionLog, experiment: Experiment, now: float) -> Newest | None:
    """Find the newest decision of an experiment, of any stage and arm; None: there is none.

    Args:
        now: Seconds since 1970. Later decisions, of a clock that is ahead, are ignored.
    """
    with log.opened() as db:
        ((newest, longest),) = db.execute(
            f"""WITH each AS (
                SELECT event_time AS decided FROM decision_log WHERE experiment = $name AND salt = $salt),
            minute AS (
                SELECT date_trunc('minute', decided) AS start, max(decided) AS newest FROM each WHERE decided <= $now
                GROUP BY start),
            gap AS (
                SELECT start, newest, start - lag(start) OVER (ORDER BY start) AS length FROM minute)
            SELECT max(newest), epoch(max(length) FILTER (
                start > (SELECT max(newest) FROM minute) - to_days({_COMPARED_DAYS})))
            FROM gap""",
            {"name": experiment.name, "salt": experiment.salt, "now": datetime.fromtimestamp(now, UTC)},
        ).fetchall()
    return None if newest is None else _told(newest.timestamp(), float(longest or 0.0), now)


def _told(newest: float, longest: float, now: float) -> Newest:
    age, at = max(0.0, now - newest), datetime.fromtimestamp(newest, UTC)
    silence = None
    if age > max(_LEAST, _FACTOR * longest):
        usual = f"; in the week before, the longest time without one was {duration(longest)}" if longest else ""
        silence = f"no decision has come for {duration(age)}, since {at:%Y-%m-%d %H:%M} UTC{usual}"
    return Newest(at=at.isoformat(timespec="seconds"), age_seconds=age, longest_seconds=longest, silence=silence)
