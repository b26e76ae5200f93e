"""Reads a raw log, checks each row, and writes the valid rows as the canonical touchpoint log.

    report = ingest_log("log.csv.gz", DatasetSpec.load("my-log.yaml"), "touchpoints.parquet", "quarantine.csv", "fail")
    print(validate_log("log.csv.gz", spec))             # the same report, and no log is written

Faulty rows are written to the quarantine file unchanged, with their faults.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ibis
import pyarrow.parquet as pq

from features import messages
from features.engine import Engine, open_engine, parquet_files
from features.ingest import contract, findings
from features.ingest.adapters.base import Adapter
from features.ingest.adapters.criteo import CriteoAttribution
from features.ingest.adapters.files import ROW, MissingColumns, at_hand, columns_of, readable, write_marked
from features.ingest.adapters.kuairand import KuaiRand
from features.ingest.adapters.samples import CriteoSequence, KuaiRandSequence
from features.ingest.adapters.values import repeated_hour
from features.ingest.contract import Cells, Fault
from features.ingest.conversions import FILE, ConversionsReport, Later
from mtorl.log.dataset import OWN, SIMULATOR, DatasetSpec, SpecError, built_in
from mtorl.log.touchpoints import LogError, fingerprint
from mtorl.runtime import progress
from mtorl.runtime.files import naming_full_disk
from mtorl.runtime.message import rephrased

__all__ = ["BadRowsError", "Fault", "IngestReport", "LogError", "ingest_log", "remedy", "validate_log", "with_remedy"]

# Steps in the progress display: one to read, up to four to check rules, one to write, one for the fingerprint.
_STEPS = 7


CANONICAL = Adapter()
ADAPTERS: Mapping[str, Adapter] = {
    OWN: CANONICAL,
    SIMULATOR: CANONICAL,
    "criteo-attribution": CriteoAttribution(),
    "criteo-sequence": CriteoSequence(),
    "kuairand": KuaiRand(),
    "kuairand-sequence": KuaiRandSequence(),
}


class BadRowsError(LogError):
    """Raised if a log has faulty rows. `with_remedy` adds to the message what the user can do about them."""


@dataclass(frozen=True)
class IngestReport:
    """The result of validating a log; `str()` gives a readable summary.

    Attributes:
        fingerprint: Digest of the content of the log. Empty if no log was written.
    """

    rows: int
    users: int
    quarantined: int
    faults: tuple[Fault, ...]
    fingerprint: str
    moved_ties: int = 0
    conversions: ConversionsReport | None = None
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.rows:,} of {self.rows + self.quarantined:,} rows can be used, of {self.users:,} users"]
        if self.moved_ties:
            lines.append(f"{self.moved_ties:,} rows were moved by 1 us: another row of their user had the same time")
        lines += [str(fault) for fault in self.faults]
        lines += self.conversions.lines() if self.conversions else []
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def ingest_log(
    path: str | Path, spec: DatasetSpec, out_parquet: str | Path, quarantine_csv: str | Path, bad_rows: str = "fail"
) -> IngestReport:
    """Validate a log and write its valid rows in the canonical layout.

    Args:
        quarantine_csv: File for the faulty rows. If there are none, an existing file is deleted.
        bad_rows: "fail" raises an error if there are faulty rows. "quarantine" continues without them.

    Raises:
        BadRowsError: There are faulty rows and `bad_rows` is "fail", or all rows are faulty.
        LogError: The log, or its second file with later outcomes, can't be used for another reason.
    """
    with _validated(path, spec) as log:
        log.quarantine(Path(quarantine_csv))
        later = log.later.faults if log.later and bad_rows == "fail" else ()
        if later or (log.bad and (bad_rows == "fail" or log.bad == log.total)):
            faults = (*log.faults, *later)
            if log.bad == log.total:
                raise BadRowsError(messages.NO_GOOD_ROW(log=path, total=log.total, dataset=spec.name, faults=faults))
            if log.bad:
                raise BadRowsError(messages.BAD_ROWS(log=path, bad=log.bad, total=log.total, faults=faults))
            raise LogError(messages.BAD_CONVERSIONS(faults=faults))
        good, ties = log.canonical()
        if log.later:
            log.later.write_left_out(Path(out_parquet).with_name(FILE))
        progress.report(_STEPS - 2, _STEPS, "writing the log")
        log.engine.write(good.order_by("user_id", "timestamp"), out_parquet)
        progress.report(_STEPS - 1, _STEPS, "fingerprint")
        users = log.engine.read(out_parquet)["user_id"].nunique().execute()
    with pq.ParquetFile(out_parquet) as file:
        content = fingerprint(file.iter_batches())
    progress.report(_STEPS, _STEPS, "done")
    return log.report(int(users), content, ties)


def remedy(quarantine_csv: str | Path | None, bad_rows: str) -> str:
    """Return a sentence that tells the user what to do about faulty rows."""
    place = "To write the bad rows with their reasons to a file: mtorl data validate --quarantine FILE"
    if quarantine_csv is not None:
        place = f"The bad rows are in {quarantine_csv}, with their reasons."
    return place + "\nCorrect them, or exclude them: --bad-rows quarantine" * (bad_rows == "fail")


@contextmanager
def with_remedy(quarantine_csv: Path | None, bad_rows: str) -> Iterator[None]:
    """If the block raises a BadRowsError, add to its message what the user can do about the faulty rows."""
    try:
        yield
    except BadRowsError as error:
        raise LogError(rephrased(error, f"{error}\n{remedy(quarantine_csv, bad_rows)}")) from None


def validate_log(path: str | Path, spec: DatasetSpec, quarantine_csv: str | Path | None = None) -> IngestReport:
    """Validate a log as `ingest_log` does, but do not write the canonical log."""
    with _validated(path, spec) as log:
        if quarantine_csv is not None:
            log.quarantine(Path(quarantine_csv))
        good, ties = log.canonical()
        if log.later and quarantine_csv is not None:
            log.later.write_left_out(Path(quarantine_csv).with_name(FILE))
        users = good["user_id"].nunique().execute()
        progress.report(_STEPS, _STEPS, "done")
        return log.report(int(users), "", ties)


class _RawTable:
    """Validates a raw log and collects its faults. The engine must stay open."""

    def __init__(
        self, engine: Engine, adapter: Adapter, raw: ibis.Table, spec: DatasetSpec, later: Later | None
    ) -> None:
        self.engine = engine
        self.later = later
        self.total = int(raw.count().execute())
        self.bad = 0
        self.faults: tuple[Fault, ...] = ()
        self._spec = spec
        self._cells = Cells(raw, adapter.adapt(raw, spec), adapter.called(spec))
        self._good: ibis.Table | None = None
        self._warnings: tuple[str, ...] = tuple(_repeated_hours(raw, spec))
        self._broken: list[tuple[contract.Stage, ibis.Table]] = []
        self._keys: dict[contract.Suspects, ibis.Table | None] = {}

    def validate(self, scratch: Path) -> None:
        """Separate valid rows from faulty rows. `scratch` must exist until the engine is closed."""
        raw, adapted = self._cells.raw, self._cells.adapted
        stages = contract.stages(self._spec, adapted.columns)
        judged = contract.judge(contract.read(adapted, self._spec), stages[0])
        if all(raw[name].type().is_string() for name in raw.columns if name != ROW):
            # Reading the parsed file in each stage is faster than parsing text again.
            self.engine.connection.to_parquet(judged, str(scratch / "judged.parquet"), compression="snappy")
            good = self.engine.read(scratch / "judged.parquet")
        else:
            good = self.engine.connection.create_view(ibis.util.gen_name("judged"), judged)
        for step, stage in enumerate(stages, 1):
            progress.report(step, _STEPS, "checking")
            rows = self._judge_stage(good, stage)
            if rows is not None:
                good = contract.without(good, rows)
        self._good = good

    def canonical(self) -> tuple[ibis.Table, int]:
        """Return the valid rows in the canonical layout, unsorted, and the number of rows whose time was changed."""
        good, keys, ties = self._good, self._keys[contract.same_times], 0
        assert good is not None
        if keys is not None:
            moves, ties = self._materialised(contract.moved_ties(good, keys))
            good = good.left_join(moves, ROW).drop(f"{ROW}_right")
            good = good.mutate(timestamp=ibis.coalesce(good["moved"], good["timestamp"])).drop("moved")
        if self.later:
            good = self.later.attribute(good)
        self._warnings += findings.check(good, self._spec)
        return contract.canonical(good, self._spec), ties

    def report(self, users: int, content: str, ties: int) -> IngestReport:
        conversions = self.later.report if self.later else None
        usable = self.total - self.bad
        return IngestReport(usable, users, self.bad, self.faults, content, ties, conversions, self._warnings)

    def quarantine(self, path: Path) -> None:
        """Write the faulty rows, with row numbers and faults, to a CSV. If there are none, delete an old file."""
        if not self.bad:
            path.unlink(missing_ok=True)
            return
        faults = ibis.union(*(self._cells.in_words(stage, rows) for stage, rows in self._broken))
        write_marked(self.engine, self._cells.raw, faults, "fault", path)

    def _judge_stage(self, good: ibis.Table, stage: contract.Stage) -> ibis.Table | None:
        """Return the rows that break a rule of the stage, or None if there are no such rows."""
        if stage.suspects:
            if stage.suspects not in self._keys:
                keys, count = self._materialised(stage.suspects(good))
                self._keys[stage.suspects] = keys if count else None
            suspects = self._keys[stage.suspects]
            if suspects is None:
                return None
            good = contract.judge(contract.suspected(good, suspects), stage)
        rows, count = self._materialised(contract.broken(good, stage))
        if not count:
            return None
        self.bad += count
        self._broken.append((stage, rows))
        self.faults += tuple(self._cells.faults(stage, rows))
        return rows

    def _materialised(self, rows: ibis.Table) -> tuple[ibis.Table, int]:
        table = self.engine.connection.create_table(ibis.util.gen_name("rows"), rows, temp=True)
        return table, int(table.count().execute())


def read_log(engine: Engine, path: Path, spec: DatasetSpec, scratch: Path) -> tuple[Adapter, DatasetSpec, ibis.Table]:
    """Read a log file with the adapter of its data set. A Parquet file in the canonical layout is read as it is.

    Raises:
        LogError: The file lacks columns. If they fit a built-in data set, the message names this data set.
    """
    adapter = adapter_of(spec)
    try:
        if _is_canonical(path, spec, adapter):
            adapter, spec = CANONICAL, spec.of_canonical_log()
        return adapter, spec, adapter.read(engine, path, spec, scratch)
    except MissingColumns as error:
        if known := matching_dataset(error.names):
            raise LogError(messages.OTHER_DATASET(error=error, dataset=known)) from None
        raise


def matching_dataset(names: Collection[str]) -> str:
    """Return the name of the built-in data set whose required columns are all in `names`, or "" if there is none."""
    specs = map(DatasetSpec.load, built_in())
    return next((spec.name for spec in specs if {*adapter_of(spec).required(spec)} <= {*names}), "")


def _is_canonical(path: Path, spec: DatasetSpec, adapter: Adapter) -> bool:
    try:
        file = parquet_files(path)[0]
    except FileNotFoundError:
        return False
    if not (file.name.endswith(".parquet") and file.is_file()):
        return False
    there = {*columns_of(path, [file])}
    raw = (spec.columns or spec.conversions) and {*adapter.required(spec)} <= there
    return not raw and {*CANONICAL.required(spec.of_canonical_log())} <= there


def adapter_of(spec: DatasetSpec) -> Adapter:
    """Return the adapter that a data set description names.

    Raises:
        SpecError: The adapter is unknown, or can't be used with this description.
    """
    if spec.adapter not in ADAPTERS:
        raise SpecError(messages.UNKNOWN_ADAPTER(adapter=spec.adapter, known=list(ADAPTERS)))
    adapter = ADAPTERS[spec.adapter]
    for field in ("columns", "conversions"):
        if getattr(spec, field) and spec.adapter != OWN:
            raise SpecError(messages.FIXED_FILES(field=field, adapter=spec.adapter))
    for kind, listed in (("context", spec.context), ("static", spec.static)):
        for column in listed:
            if column.name in adapter.never_context:
                why = adapter.never_context[column.name]
                raise SpecError(f"{kind}: column {column.name!r} is {why}. List it under outcomes, or remove it")
    return adapter


def _repeated_hours(raw: ibis.Table, spec: DatasetSpec) -> Iterator[str]:
    """Yield a warning for each column with local times in the hour that occurs twice when daylight saving ends."""
    sources = [source for source in spec.columns.values() if source.timezone]
    if not sources:
        return
    counts = raw.agg(**{f"n{i}": repeated_hour(raw, source).sum() for i, source in enumerate(sources)})
    counted = counts.to_pyarrow().to_pylist()[0]
    for i, source in enumerate(sources):
        if count := counted[f"n{i}"]:
            yield messages.REPEATED_HOUR(column=source.column, rows=count, zone=source.timezone)


@contextmanager
def _validated(path: str | Path, spec: DatasetSpec) -> Iterator[_RawTable]:
    with (
        open_engine("duckdb") as engine,
        tempfile.TemporaryDirectory(prefix="mtorl-ingest-") as scratch,
        naming_full_disk(Path(scratch)),
        at_hand(path, Path(scratch) / "copy") as here,
    ):
        progress.report(0, _STEPS, "reading")
        adapter, spec, raw = read_log(engine, here, spec, Path(scratch))
        with readable(here):
            later = Later(engine, spec, Path(scratch)) if spec.conversions else None
            log = _RawTable(engine, adapter, raw, spec, later)
            if not log.total:
                raise LogError(messages.NO_ROWS(file=here))
            log.validate(Path(scratch))
        yield log
