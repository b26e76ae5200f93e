"""Caches tables that are computed from closed hours, as files in the lake whose names identify their inputs.

    kept = Derived(lake, "judged", "shop", [sql])    # "judged": for trainings; "sums": for verdicts
    kept.files(hour, sources)                        # [] if the table must be computed
    kept.name(hour, sources, number=0, of=1)         # judged/shop-SETTINGS/date=.../hour=.../SOURCES-TOKEN-0-1.parquet

`SETTINGS` is a digest of all inputs other than records. `SOURCES` is a digest of the names of the files that were read;
these files never change. So a cached file with the right name is up to date. Files with the same `TOKEN` form one
table.
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
# A superseded file is deleted after this many seconds, because a running query may still read it.
_KEPT_SECONDS = 2 * 3600.0
_DAY = timedelta(days=1)
_NAME = re.compile(r".*/[0-9a-f]{16}-[0-9a-f]{8}-\w+-\d+(\.[0-9a-f]+)?\.parquet")


class Derived:
    """The cached tables that have one name and the current settings.

    `supersede` deletes the tables that have the same name and older settings.
    """

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
        """Return the files of the cached table that was computed from `sources` and is stored under `hour`.

        The result is empty if a file of the table is missing, so that the table must be computed.
        """
        tables = self._there[hour, _digest(sources)].values()
        return next((files for files in tables if len(files) == int(_parts_of(files[0])[-1])), [])

    def name(self, hour: datetime, sources: Iterable[str], number: int | str, of: int) -> str:
        """Return the path in the lake for a file of a table that is to be written.

        Args:
            sources: Names of the files from which the table was computed.
            number: Number of this file in the table. If the table covers all hours until `hour`, it begins with `PAST`.
            of: Number of files that the whole table has.
        """
        place = f"{self._folder}/date={hour:%Y-%m-%d}/hour={hour:%H}"
        return f"{place}/{_digest(sources)}-{self._token}-{number}-{of}.parquet"

    def supersede(self, known: Collection[LakeFile]) -> None:
        """Hide, and later delete, the cached files that are no longer needed.

        Files with the current settings are hidden if they are not in `known` and are an hour old. Younger files stay,
        because a concurrent reader may have listed them. All files with other settings are hidden when the newest of
        them is a day old. Before that, another process may still use these settings.
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
    """Return whether a file belongs to a table that covers all hours until the file's own hour."""
    return f"-{PAST}" in file.name.rpartition("/")[2]


def _age(file: LakeFile, now: datetime) -> timedelta:
    return timedelta(0) if file.written is None else now - file.written


def _folder_of(file: LakeFile) -> str:
    return file.name.partition("/date=")[0]


def _parts_of(file: LakeFile) -> list[str]:
    return file.name.rpartition("/")[2].partition(".")[0].split("-")


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
