"""Caches tables that are computed from closed hours, as files in the lake.

    kept = Derived(lake, "judged", "shop", [sql])    # "judged": for trainings; "sums": for verdicts
    kept.files(hour, sources)                        # [] if the table must be computed
    kept.name(hour, sources, number=0, of=1)         # judged/shop-SETTINGS/date=.../hour=.../SOURCES-TOKEN-0-1.parquet

`SOURCES` and `SETTINGS` are digests of all inputs, so a table with the right name is up to date.
"""

import hashlib
import re
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from mtorl.log.lake import HOUR, Lake, LakeFile, Zone

PAST = "past"
# Seconds until a hidden file is deleted, because a running query may still read it.
_KEPT_SECONDS = 2 * 3600.0
_DAY = timedelta(days=1)
_NAME = re.compile(r".*/[0-9a-f]{16}-[0-9a-f]{8}-\w+-\d+(\.[0-9a-f]+)?\.parquet")


class Derived:
    """The cached tables of one name that were computed with the current settings."""

    def __init__(self, lake: Lake, zone: Zone, name: str, settings: Iterable[str]) -> None:
        self._lake = lake
        self._name = f"{zone}/{re.sub(r'[^a-zA-Z0-9-]', '_', name)}"
        self._folder = f"{self._name}-{_digest(settings)}"
        self._token = secrets.token_hex(4)
        self._every = [file for file in lake.derived(zone) if _NAME.fullmatch(file.name)]
        self._there: dict[tuple[datetime, str], dict[str, list[LakeFile]]] = defaultdict(lambda: defaultdict(list))
        for file in self._every:
            if _folder_of(file) == self._folder:
                sources, token, *_ = _parts_of(file)
                self._there[file.hour, sources][token].append(file)

    def files(self, hour: datetime, sources: Iterable[str]) -> list[LakeFile]:
        """Return the files of the table that was computed for `hour` from `sources`, or [] if a file is missing."""
        tables = self._there[hour, _digest(sources)].values()
        return next((files for files in tables if len(files) == int(_parts_of(files[0])[-1])), [])

    def name(self, hour: datetime, sources: Iterable[str], number: int | str, of: int) -> str:
        """Return the path in the lake for a new file of a table.

        Args:
            number: Number of this file in the table. If it begins with `PAST`, the table covers all hours up to
                `hour`.
            of: Number of files in the whole table.
        """
        place = f"{self._folder}/date={hour:%Y-%m-%d}/hour={hour:%H}"
        return f"{place}/{_digest(sources)}-{self._token}-{number}-{of}.parquet"

    def supersede(self, known: Collection[LakeFile]) -> None:
        """Hide the cached files that are no longer needed, so that the lake deletes them later.

        Files that another process may still use are kept.
        """
        now = datetime.now(UTC)
        own = defaultdict(list)
        for file in self._every:
            if _folder_of(file).rpartition("-")[0] == self._name:
                own[_folder_of(file)].append(file)
        stale = [file for file in own.pop(self._folder, ()) if file not in known and _age(file, now) > HOUR]
        for files in own.values():
            if min(_age(file, now) for file in files) > _DAY:
                stale += files
        with suppress(OSError):  # the lake may be read-only
            self._lake.supersede(stale, _KEPT_SECONDS)


def is_of_past(file: LakeFile) -> bool:
    """Return whether a file's table covers all hours up to the file's hour, not only this hour."""
    return f"-{PAST}" in file.name.rpartition("/")[2]


def _age(file: LakeFile, now: datetime) -> timedelta:
    return timedelta(0) if file.written is None else now - file.written


def _folder_of(file: LakeFile) -> str:
    return file.name.partition("/date=")[0]


def _parts_of(file: LakeFile) -> list[str]:
    return file.name.rpartition("/")[2].partition(".")[0].split("-")


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
