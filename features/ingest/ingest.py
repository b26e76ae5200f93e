"""The door: a raw log is read, judged, and written as the canonical touchpoint log.

    report = ingest_log("log.csv.gz", DatasetSpec.load("my-log.yaml"), "touchpoints.parquet", "quarantine.csv", "fail")
    print(validate_log("log.csv.gz", spec))             # the same verdict, and no log is written

Validation is strict and says file, column, number of rows and an example with its row number (1 = the first row of
data). Bad rows go to the quarantine file, whole and as they were, with their reasons; none is dropped silently. Files
appear complete or not at all. DuckDB does the work, so memory stays bounded however long the log is.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import ibis
import pyarrow.parquet as pq

from features.engine import Engine, open_engine
from features.ingest import adapters, contract
from features.ingest.adapters.files import ROW, readable
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import CREATED, LogError, fingerprint
from mtorl.runtime import progress
from mtorl.runtime.files import replacing

__all__ = ["Fault", "IngestReport", "LogError", "ingest_log", "validate_log"]

_STEPS = 7  # of progress: read, four stages of the contract at most, write, fingerprint


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one column."""

    rule: str
    column: str  # as the file calls it
    count: int  # rows
    example: str  # the value as it stands in the file
    row: int  # of the example; 1 = the first row of data
    hint: str = ""

    def __str__(self) -> str:
        rows = "1 row" if self.count == 1 else f"{self.count:,} rows"
        example = f"{self.example} (row {self.row})" if self.example else f"row {self.row}"
        return f"column {self.column!r}: {rows} {contract.MEANING[self.rule]}, e.g. {example}{self.hint}"


@dataclass(frozen=True)
class IngestReport:
    """What became of a log; as text, a summary for people."""

    rows: int  # that can be used
    users: int
    quarantined: int  # rows
    faults: tuple[Fault, ...]
    fingerprint: str  # see `mtorl.log.touchpoints.fingerprint`; "" where no log was written
    moved_ties: int = 0  # rows put later by microseconds: another touchpoint of the user has the same time

    def __str__(self) -> str:
        lines = [f"{self.rows:,} of {self.rows + self.quarantined:,} rows can be used, of {self.users:,} users"]
        if self.moved_ties:
            lines.append(f"{self.moved_ties:,} rows at the time of another one of their user were put 1 us later")
        lines += [str(fault) for fault in self.faults]
        return "\n".join(lines)


def ingest_log(
    path: str | Path, spec: DatasetSpec, out_parquet: str | Path, quarantine_csv: str | Path, on_bad_rows: str = "fail"
) -> IngestReport:
    """Validate a log and write its canonical form.

    Args:
        path: The log: a file or folder of the layout that the data set's adapter knows.
        spec: Its description.
        out_parquet: Canonical log to write.
        quarantine_csv: Written when there are bad rows; otherwise no such file is left.
        on_bad_rows: "fail" writes no log if any row is bad, "quarantine" goes on without the bad rows.

    Raises:
        LogError: the log can't be used; all faults are in the message.
        SpecError: the description does not fit its adapter.
    """
    if on_bad_rows not in ("fail", "quarantine"):
        raise ValueError(f"on_bad_rows: {on_bad_rows!r} is not one of fail, quarantine")
    with _judge(Path(path), spec) as verdict:
        verdict.quarantine(Path(quarantine_csv))
        if verdict.bad and (on_bad_rows == "fail" or verdict.bad == verdict.total):
            lines = [f"{path}: {verdict.bad:,} of {verdict.total:,} rows can't be used"]
            lines += [f"{path}: {fault}" for fault in verdict.faults]
            lines.append(f"The bad rows are in {quarantine_csv}, each with its reasons.")
            if verdict.bad == verdict.total:
                lines.append(f"Not one good row is left: is this really a {spec.name!r} log?")
            else:
                lines.append("Mend them, or go on without them: --bad-rows quarantine")
            raise LogError("\n".join(lines))
        log, ties = verdict.log(spec)
        progress.report(_STEPS - 2, _STEPS, "writing the log")
        verdict.engine.write(log.order_by("user_id", "timestamp"), out_parquet)
        progress.report(_STEPS - 1, _STEPS, "fingerprint")
        users = verdict.engine.read(out_parquet)["user_id"].nunique().execute()
    with pq.ParquetFile(out_parquet) as file:
        content = fingerprint(file.iter_batches())
    progress.report(_STEPS, _STEPS, "done")
    return IngestReport(verdict.total - verdict.bad, int(users), verdict.bad, verdict.faults, content, ties)


def validate_log(path: str | Path, spec: DatasetSpec, quarantine_csv: str | Path | None = None) -> IngestReport:
    """Judge a log and write nothing but, where asked for, its bad rows.

    Args:
        path: As in `ingest_log`.
        spec: As in `ingest_log`.
        quarantine_csv: As in `ingest_log`; None writes no such file.

    Raises:
        LogError: the log can't be read; faulty rows are in the report instead.
        SpecError: the description does not fit its adapter.
    """
    with _judge(Path(path), spec) as verdict:
        if quarantine_csv is not None:
            verdict.quarantine(Path(quarantine_csv))
        log, ties = verdict.log(spec)
        users = log["user_id"].nunique().execute()
        progress.report(_STEPS, _STEPS, "done")
        return IngestReport(verdict.total - verdict.bad, int(users), verdict.bad, verdict.faults, "", ties)


class _Verdict:
    """A log and what is wrong with it; lives as long as its engine."""

    def __init__(self, engine: Engine, raw: ibis.Table, adapted: ibis.Table, names: dict[str, str], total: int) -> None:
        self.engine = engine
        self.raw = raw
        self.adapted = adapted
        self.names = names  # what the file calls the columns
        self.total = total  # rows
        self.bad = 0  # rows
        self.faults: tuple[Fault, ...] = ()
        self._good: ibis.Table | None = None
        self._broken: list[tuple[contract.Stage, ibis.Table]] = []
        self._keys: dict[contract.Suspects, ibis.Table | None] = {}

    def judge(self, spec: DatasetSpec, scratch: Path) -> None:
        """Tell good rows from bad ones."""
        stages = contract.stages(spec, CREATED in self.adapted.columns)
        judged = contract.judge(contract.read(self.adapted, spec), stages[0])
        if all(self.raw[name].type().is_string() for name in self.raw.columns if name != ROW):
            # Making out text costs more than writing down what it says; typed files are faster read again.
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

    def log(self, spec: DatasetSpec) -> tuple[ibis.Table, int]:
        """The canonical log, in no order, and how many of its rows were moved in time."""
        good, keys, ties = self._good, self._keys[contract.SAME_TIME], 0
        assert good is not None
        if keys is not None:
            moves, ties = self._kept(contract.moved_ties(good, keys))
            good = good.left_join(moves, ROW).drop(f"{ROW}_right")
            good = good.mutate(timestamp=ibis.coalesce(good["moved"], good["timestamp"]))
        return contract.canonical(good, spec), ties

    def quarantine(self, path: Path) -> None:
        """Write the bad rows as they are in the file, with their row number first and their faults last."""
        if not self.bad:
            path.unlink(missing_ok=True)
            return
        reasons = ibis.union(*(self._reasons(stage, rows) for stage, rows in self._broken))
        rows = self.raw.join(reasons, ROW).order_by(ROW)
        taken = ("row", "fault")  # a file may have columns of these names
        own = {f"{name}.1" if name.lower() in taken else name: rows[name] for name in self.raw.columns if name != ROW}
        rows = rows.select(row=rows[ROW], **own, fault=rows["fault:"])
        with replacing(path) as temporary:
            self.engine.connection.to_csv(rows, str(temporary), header=True)

    def _judge_stage(self, good: ibis.Table, stage: contract.Stage) -> ibis.Table | None:
        """The rows that break a rule of a stage; None if there are none."""
        if kind := stage.suspects:
            if kind not in self._keys:
                keys, count = self._kept(kind.find(good))
                self._keys[kind] = keys if count else None
            suspects = self._keys[kind]
            if suspects is None:
                return None
            good = contract.judge(contract.suspected(good, suspects), stage)
        rows, count = self._kept(contract.broken(good, stage))
        if not count:
            return None
        self.bad += count
        self._broken.append((stage, rows))
        self.faults += tuple(self._faults(stage, rows))
        return rows

    def _kept(self, rows: ibis.Table) -> tuple[ibis.Table, int]:
        """Some rows of the log, computed once, and how many they are."""
        table = self.engine.connection.create_table(ibis.util.gen_name("door"), rows, temp=True)
        return table, int(table.count().execute())

    def _faults(self, stage: contract.Stage, rows: ibis.Table) -> Iterator[Fault]:
        """Each kind of fault with its count and an example."""
        kinds = [(name, place, check) for name, checks in stage.rules() for place, check in enumerate(checks, 1)]
        figures = {}
        for i, (name, place, _) in enumerate(kinds):
            figures[f"count{i}"] = (rows[name] == place).sum()
            figures[f"first{i}"] = rows[ROW].min(where=rows[name] == place)
        found = rows.agg(**figures).to_pyarrow().to_pylist()[0]
        for i, (name, _, check) in enumerate(kinds):
            if count := found[f"count{i}"]:
                row = found[f"first{i}"]
                example = "" if check.name == "missing_value" else self._value(name, row)
                yield Fault(str(check.name), self.names[name], count, example, row, check.description or "")

    def _value(self, name: str, row: int) -> str:
        """A value as it stands in the file; where it is folded from several columns, as the adapter gives it."""
        own = self.names[name]
        table, column = (self.raw, own) if own in self.raw.columns else (self.adapted, name)
        value = table.filter(table[ROW] == row).select(column).to_pyarrow().to_pylist()[0][column]
        if value is None:
            return ""
        return value.isoformat() if isinstance(value, datetime.date) else repr(value)

    def _reasons(self, stage: contract.Stage, rows: ibis.Table) -> ibis.Table:
        """`ROW` and the faults of each row in words."""
        words = []
        for name, checks in stage.rules():
            own = self.names[name]
            places = ((rows[name] == place, f"{check.name} ({own}); ") for place, check in enumerate(checks, 1))
            words.append(ibis.cases(*places, else_=""))
        text = reduce(lambda a, b: a + b, words)
        return rows.select(ROW, **{"fault:": text.left(text.length() - 2)})


@contextmanager
def _judge(path: Path, spec: DatasetSpec) -> Iterator[_Verdict]:
    adapter = adapters.adapter_of(spec)
    with open_engine("duckdb") as engine, tempfile.TemporaryDirectory(prefix="mtorl-door-") as scratch:
        progress.report(0, _STEPS, "reading")
        raw = adapters.read(engine, path, spec, Path(scratch))
        with readable(path):
            total = int(raw.count().execute())
            if not total:
                raise LogError(f"{path}: the file has columns but no rows")
            adapted = adapter.adapt(raw, spec)
            names = {name: adapter.source.get(name, name) for name in adapted.columns}
            verdict = _Verdict(engine, raw, adapted, names, total)
            verdict.judge(spec, Path(scratch))
        yield verdict
