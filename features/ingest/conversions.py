"""Adds the outcomes in a second file, such as a file of conversions, to the touchpoints of a log.

Each row of the second file is assigned to the last touchpoint before it with the same user id or touchpoint id. The
touchpoint must lie within the attribution window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ibis

from features import messages
from features.engine import Engine, unix_micros
from features.ingest import contract
from features.ingest.adapters import files, values
from features.ingest.adapters.files import ROW
from features.ingest.adapters.values import value_of
from features.ingest.contract import SAME, Fault
from mtorl.log.dataset import EVENTS, DatasetSpec, outcome_time
from mtorl.log.times import DAY_US
from mtorl.log.touchpoints import LogError
from mtorl.runtime.message import Message

FILE = "conversions-left-out.csv"
"""Name of a file next to the canonical log. It lists the rows of the second file that match no touchpoint, each with
the reason."""

_REPEATED = "repeated"
_UNATTRIBUTED = {
    "no_touchpoint": "without a touchpoint in the log",
    "before_touchpoint": "earlier than every touchpoint with their key",
    "outside_window": "more than {days:g} days after the newest touchpoint with their key",
}


@dataclass(frozen=True)
class ConversionsReport:
    """Counts of the rows in the second file.

    Attributes:
        key: The column that links a row to its touchpoint: touchpoint_id or user_id.
        days: Attribution window in days. None means no limit.
    """

    source: str
    rows: int
    attributed: int
    unattributed: dict[str, int]
    repeated: int
    faulty: int
    faults: tuple[Fault, ...]
    key: str
    days: float | None

    @property
    def left_out(self) -> int:
        """Number of rows that were not attributed to a touchpoint."""
        return self.rows - self.attributed

    def lines(self) -> list[str]:
        """Return a readable summary in lines."""
        window = f" and at most {self.days:g} days before it" if self.days is not None else ""
        by = "touchpoint id" if self.key == "touchpoint_id" else "user"
        how = f"newest touchpoint with the same {by}, not later than the row{window}"
        lines = [f"{self.source}: {self.attributed:,} of {self.rows:,} rows match a touchpoint ({how})"]
        words = {reason: text.format(days=self.days or 0) for reason, text in _UNATTRIBUTED.items()}
        lines += [f"left out: {count:,} {words[reason]}" for reason, count in self.unattributed.items() if count]
        lines += [f"left out: {self.repeated:,} that repeat another row"] * bool(self.repeated)
        return lines + [str(fault) for fault in self.faults]


class Later:
    """Reads the second file of a data set, and adds its outcomes to touchpoints. The engine must stay open."""

    def __init__(self, engine: Engine, spec: DatasetSpec, scratch: Path) -> None:
        assert spec.conversions is not None
        self._engine, self._told = engine, spec.conversions
        with files.at_hand(self._told.source, scratch / "conversions") as here, files.readable(here):
            folder = scratch / "later"
            folder.mkdir()
            raw = self._raw = files.read(engine, here, folder, self._told.file.separator)
            sources, numbers = self._told.columns, self._told.outcomes
            names = [name for name in raw.columns if name != ROW]
            needed = [source.column for source in sources.values() if source.column is not None]
            files.check_columns(here, names, needed, spec, where="conversions")
            told = {
                name: value_of(raw, source, self._told.file.decimal if name in numbers else ".")
                for name, source in sources.items()
            }
            # Rows with the same event id are copies of one event. A row without an id counts as unique.
            if "event_id" in told:
                event = values.text(told["event_id"])
                same = {"event": event, "row": ibis.ifelse(event.isnull(), raw[ROW], 0)}
            else:
                same = {name: raw[name] for name in names}
            adapted = raw.select(ROW, **told, **{SAME: ibis.struct(same)})
            stage = contract.of_conversions(self._told)
            judged = contract.judge(contract.read(adapted, spec, tuple(sources)), stage)
            judged = judged.mutate(fault=contract.is_broken(judged, stage))
            turn = ibis.row_number().over(group_by=[judged[SAME], judged["fault"]], order_by=judged[ROW])
            again = (turn > 0) & ~judged["fault"]
            key, at = judged[self._told.key], judged["timestamp"]
            self._rows = self._kept(judged.select(ROW, "fault", *numbers, key=key, at=at, again=again))
            called = {name: source.column for name, source in sources.items() if source.column is not None}
            bad = self._kept(contract.broken(judged, stage))
            self.faults = tuple(contract.Cells(raw, adapted, called, Path(self._told.source).name).faults(stage, bad))
        self._judged: ibis.Table | None = None
        self.report: ConversionsReport | None = None  # set by `attribute`

    def attribute(self, touchpoints: ibis.Table) -> ibis.Table:
        """Return the touchpoints with the outcomes of the second file and the times of these outcomes.

        Raises:
            LogError: All rows of the second file are valid, but none matches a touchpoint.
        """
        key = self._told.key
        shown = touchpoints.select(key=touchpoints[key], shown=touchpoints["timestamp"], touch=touchpoints[ROW])
        rows = self._rows.asof_join(shown, on=self._rows["at"] >= shown["shown"], predicates="key").drop("key_right")
        known = shown.select(known="key").distinct()
        rows = rows.left_join(known, rows["key"] == known["known"])
        fresh, limit = ibis.literal(True), self._told.days
        if limit is not None:
            fresh = unix_micros(rows["at"]) - unix_micros(rows["shown"]) <= round(limit * DAY_US)
        reason = ibis.cases(
            (rows["fault"], "faulty"),
            (rows["again"], _REPEATED),
            (rows["known"].isnull(), "no_touchpoint"),
            (rows["touch"].isnull(), "before_touchpoint"),
            (~fresh, "outside_window"),
            else_="",
        )
        self._judged = self._kept(rows.mutate(reason=reason))
        self.report = self._counted(self._judged)
        if self.report.rows and not self.report.attributed + self.report.faulty:
            raise LogError(self._nothing_fits(self.report, touchpoints))
        found = self._sums(self._judged.filter(self._judged["reason"] == ""))
        log = touchpoints.drop(*(name for name in found.columns if name in touchpoints.columns and name != ROW))
        log = log.left_join(found, ROW).drop(f"{ROW}_right")
        return log.mutate(**{name: log[name].fill_null(0.0) for name in self._told.outcomes})

    def write_left_out(self, path: Path) -> None:
        """Write the rows that were not assigned to a touchpoint to a CSV, each with the reason.

        If there are no such rows, an existing file is deleted.
        """
        assert self._judged is not None
        out = self._judged.filter(self._judged["reason"] != "").select(ROW, **{"#mark": self._judged["reason"]})
        if int(out.count().execute()):
            files.write_marked(self._engine, self._raw, out, "reason", path)
        else:
            path.unlink(missing_ok=True)

    def _counted(self, judged: ibis.Table) -> ConversionsReport:
        counted = judged.group_by("reason").agg(n=judged.count()).to_pyarrow().to_pylist()
        counts: Mapping[str, int] = {row["reason"]: int(row["n"]) for row in counted}
        return ConversionsReport(
            source=Path(self._told.source).name,
            rows=sum(counts.values()),
            attributed=counts.get("", 0),
            unattributed={reason: counts.get(reason, 0) for reason in _UNATTRIBUTED},
            repeated=counts.get(_REPEATED, 0),
            faulty=counts.get("faulty", 0),
            faults=self.faults,
            key=self._told.key,
            days=self._told.days,
        )

    def _sums(self, rows: ibis.Table) -> ibis.Table:
        columns: dict[str, ibis.Value] = {}
        for name in self._told.outcomes:
            happened = rows[name] != 0
            if name in EVENTS:
                columns[name], known = rows[name].max(), rows["at"].min(where=happened)
            # Add amounts in the order of the file, so that the sum is reproducible.
            else:
                columns[name], known = rows[name].collect(order_by=rows[ROW]).sums(), rows["at"].max(where=happened)
            columns[outcome_time(name)] = known
        return rows.group_by(**{ROW: rows["touch"]}).agg(**columns)

    def _kept(self, table: ibis.Table) -> ibis.Table:
        return self._engine.connection.create_table(ibis.util.gen_name("later"), table, temp=True)

    def _nothing_fits(self, report: ConversionsReport, touchpoints: ibis.Table) -> Message:
        counts = report.lines()[1:]
        key = self._told.key
        own = touchpoints.select(key=touchpoints[key]).filter(ibis._["key"].notnull()).limit(1).to_pyarrow()
        theirs = self._rows.filter(self._rows["key"].notnull()).select("key").limit(1).to_pyarrow()
        examples = [repr(found["key"][0].as_py()) if len(found) else "nothing" for found in (theirs, own)]
        return messages.NO_CONVERSION_FITS(
            file=self._told.source, counts=counts, key=key, theirs=examples[0], own=examples[1]
        )
