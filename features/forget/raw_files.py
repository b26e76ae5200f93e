"""Finds users who remain in the raw files of a log. Raw files belong to the log's owner and are not changed.

If a raw file still contains a user, the next ingestion would add the user again.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ibis

from features import messages
from features.engine import Engine, open_engine
from features.forget.tables import USER
from features.ingest.adapters import files, values
from features.ingest.adapters.values import value_of
from features.ingest.ingest import read_log
from features.ingest.log_folder import RAW, Origin
from mtorl.log.dataset import DatasetSpec, SpecError
from mtorl.log.sources import TOUCHPOINT_ID, is_remote
from mtorl.log.touchpoints import INGEST_FILE, LogError


def origins_of(logs: Iterable[Path]) -> list[Origin]:
    """Return the distinct raw files of some logs, with their descriptions. A simulated log has none."""
    found: dict[str, Origin] = {}
    for folder in logs:
        if origin := json.loads((folder / INGEST_FILE).read_text(encoding="utf-8")).get(RAW):
            found[json.dumps(origin, sort_keys=True)] = Origin.from_dict(origin)
    return list(found.values())


def remaining_rows(origin: Origin, users: frozenset[str]) -> Iterator[str]:
    """Yield a sentence for each raw file that still contains rows of the users or that could not be searched."""
    with open_engine("duckdb") as engine, tempfile.TemporaryDirectory(prefix="mtorl-forget-") as scratch:
        finder = _RowFinder(engine, Path(scratch), origin.spec, sorted(users))
        named = [(origin.log, finder.log)]
        if origin.spec.conversions:
            named.append((origin.spec.conversions.source, finder.conversions))
        named += [(view.source, finder.view) for view in origin.spec.features if view.source and view.key == USER]
        for name, rows_of in named:
            if is_remote(name):
                yield f"{name}: not searched, because it is in an object store"
            elif not Path(name).exists():
                yield messages.FILE_GONE(file=name)
            else:
                try:
                    with files.readable(Path(name)):
                        found, column = rows_of(Path(name))
                        count = int(found.count().execute())
                except (LogError, SpecError) as error:
                    yield f"not searched: {str(error).splitlines()[0]}"
                    continue
                if count:
                    yield messages.STILL_THERE(file=name, rows=count, column=column)


@dataclass
class _RowFinder:
    """Finds rows of users in raw files. Each method returns these rows and the name of the column with user ids."""

    engine: Engine
    scratch: Path
    spec: DatasetSpec
    users: list[str]
    ids: ibis.Table | None = None

    def log(self, path: Path) -> tuple[ibis.Table, str]:
        adapter, spec, raw = read_log(self.engine, path, self.spec, self.scratch)
        adapted = adapter.adapt(raw, spec)
        rows = adapted.filter(values.text(adapted[USER]).isin(self.users))
        if TOUCHPOINT_ID in rows.columns:
            self.ids = rows.select(key=values.text(rows[TOUCHPOINT_ID])).distinct()
        return rows, adapter.called(spec).get(USER, USER)

    def conversions(self, path: Path) -> tuple[ibis.Table, str]:
        told = self.spec.conversions
        assert told is not None
        source = told.columns[told.key]
        if told.key == TOUCHPOINT_ID and self.ids is None:
            raise LogError(f"{path}: only the log links {source.column!r} to users")
        rows = self._table(path, told.file.separator)
        rows = rows.select(key=values.text(value_of(rows, source)))
        found = rows.filter(rows["key"].isin(self.users)) if self.ids is None else rows.semi_join(self.ids, "key")
        return found, str(source.column)

    def view(self, path: Path) -> tuple[ibis.Table, str]:
        rows = self._table(path)
        return rows.filter(values.text(rows[USER]).isin(self.users)), USER

    def _table(self, path: Path, separator: str | None = None) -> ibis.Table:
        return files.read(self.engine, path, Path(tempfile.mkdtemp(dir=self.scratch)), separator)
