"""The touchpoint log: read, judge, and write what the rest of the project reads.

    report = ingest_log("log.csv.gz", DatasetSpec.load("my-log.yaml"), "touchpoints.parquet", "quarantine.csv", "fail")

Validation is strict and says file, column, number of rows and an example with its row number (1 = the first row of
data). Bad rows go to the quarantine file, whole and as they were, with their reasons; none is dropped silently. Files
appear complete or not at all.

Every touchpoint is one exposure. The canonical layout is `DatasetSpec.columns`, sorted by (user_id, timestamp) with
times strictly increasing inside a user: timestamp in UTC with microseconds, cost and revenue in currency units, click
and conversion 0 or 1, propensity in (0, 1] or null.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from mtorl.adapters import INDEX, Adapted, adapter_of
from mtorl.dataset import DatasetSpec, built_in

_NA = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]  # in columns of numbers; in text only "" is missing
_UNREADABLE = (OSError, EOFError, UnicodeError, ValueError, zlib.error, pa.ArrowException, pd.errors.ParserWarning)

_MEANING = {
    "missing_value": "without a value",
    "not_a_number": "with no finite number",
    "unparsable_timestamp": "with an unparsable timestamp",
    "unknown_channel": "with an unknown channel",
    "negative_cost": "with a negative cost",
    "not_binary": "with neither 0 nor 1",
    "propensity_out_of_range": "with a propensity outside (0, 1]",
    "duplicate_touchpoint": "with a duplicate time (one that another touchpoint of the same user has)",
    "changing_static": "with another value than the user's first, in a static column",
    "single_touchpoint": "of users with too few touchpoints",
}


class LogError(Exception):
    """The log can't be used; the message says what to mend."""


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
        meaning = _MEANING[self.rule]
        example = f"{self.example} (row {self.row})" if self.example else f"row {self.row}"
        return f"column {self.column!r}: {rows} {meaning}, e.g. {example}{self.hint}"


@dataclass(frozen=True)
class Validation:
    """Rows that can be used and rows that can't."""

    good: pd.DataFrame  # canonical
    bad: pd.DataFrame  # as in the file, with their row number first and their faults last
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class IngestReport:
    """What became of a log."""

    rows: int
    users: int
    quarantined: int  # rows
    faults: tuple[Fault, ...]
    fingerprint: str  # see `fingerprint`


def read_log(path: str | Path, spec: DatasetSpec) -> pd.DataFrame:
    """Read a file (.csv, .csv.gz, .parquet) as it is, once its columns are the expected ones; further ones are kept.

    Raises:
        LogError: the file is missing, empty, not readable or has other columns.
    """
    path = Path(path)
    adapter = adapter_of(spec)
    if not path.is_file():
        raise LogError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise LogError(f"{path}: the file is empty")
    try:
        if path.name.endswith(".parquet"):
            _check_columns(pq.read_schema(path).names, path, spec)
            raw: pd.DataFrame = pq.read_table(path).to_pandas()
        elif path.name.endswith((".csv", ".csv.gz")):
            names = [str(name) for name in pd.read_csv(path, nrows=0, index_col=False)]
            _check_columns(names, path, spec)
            text = set(adapter.text(spec))
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with too many values
                raw = pd.read_csv(
                    path,
                    index_col=False,
                    low_memory=False,
                    float_precision="round_trip",
                    keep_default_na=False,
                    dtype=dict.fromkeys(text, str),
                    na_values={name: [""] if name in text else _NA for name in names},
                )
        else:
            raise LogError(f"{path}: unknown kind of file; expected .csv, .csv.gz or .parquet")
    except _UNREADABLE as error:
        kind = "Parquet file" if path.name.endswith(".parquet") else "CSV file"
        raise LogError(f"{path}: not a readable {kind}: {str(error).splitlines()[0]}") from error
    if raw.empty:
        raise LogError(f"{path}: the file has columns but no rows")
    return raw


def validate(raw: pd.DataFrame, spec: DatasetSpec, path: str | Path) -> Validation:
    """Tell good rows from bad ones.

    Args:
        raw: As `read_log` returns it.
        spec: Description of the data set.
        path: Where it came from; not read.
    """
    adapted = adapter_of(spec).adapt(raw.reset_index(drop=True), spec)
    check = _Check(raw.reset_index(drop=True), adapted)
    for name in ("user_id", "campaign_id", "channel"):
        check.text(name)
    check.time("timestamp")
    check.flag(
        "unknown_channel", "channel", ~check["channel"].isin(spec.channels), f"; known: {', '.join(spec.channels)}"
    )
    for name in ("cost", "click", "conversion", "revenue"):
        check.number(name)
    check.flag("negative_cost", "cost", check["cost"] < 0)
    for name in ("click", "conversion"):
        check.flag("not_binary", name, ~check[name].isin([0, 1]))
    check.number("propensity", "error" if spec.propensity == "logged" else "unknown")
    check.flag("propensity_out_of_range", "propensity", (check["propensity"] <= 0) | (check["propensity"] > 1))
    for column in (*spec.context, *spec.static, *spec.outcomes):
        (check.number if column.kind == "numeric" else check.text)(column.name, column.missing)
    check.journeys([c.name for c in spec.static], spec.min_touchpoints)
    return check.result(spec)


def ingest_log(
    path: str | Path, spec: DatasetSpec, out_parquet: str | Path, quarantine_csv: str | Path, on_bad_rows: str = "fail"
) -> IngestReport:
    """Validate a log file and write its canonical form.

    Args:
        path: The log.
        spec: Its description.
        out_parquet: Canonical log to write.
        quarantine_csv: Written when there are bad rows; otherwise no such file is left.
        on_bad_rows: "fail" writes no log if any row is bad, "quarantine" goes on without the bad rows.

    Raises:
        LogError: the file can't be used; all faults are in the message.
    """
    if on_bad_rows not in ("fail", "quarantine"):
        raise ValueError(f"on_bad_rows: {on_bad_rows!r} is not one of fail, quarantine")
    raw = read_log(path, spec)
    found = validate(raw, spec, path)
    if len(found.bad):
        with _atomic(Path(quarantine_csv)) as temporary:
            found.bad.to_csv(temporary, index=False)
    else:
        Path(quarantine_csv).unlink(missing_ok=True)
    if len(found.bad) and (on_bad_rows == "fail" or found.good.empty):
        lines = [f"{path}: {len(found.bad):,} of {len(raw):,} rows can't be used"]
        lines += [f"{path}: {fault}" for fault in found.faults]
        lines.append(f"The bad rows are in {quarantine_csv}, each with its reasons.")
        if found.good.empty:
            lines.append(f"Not one good row is left: is this really a {spec.name!r} log?")
        else:
            lines.append("Mend them, or go on without them: --bad-rows quarantine")
        raise LogError("\n".join(lines))
    write_log(found.good, out_parquet, spec)
    return IngestReport(
        len(found.good), found.good["user_id"].nunique(), len(found.bad), found.faults, fingerprint(found.good)
    )


def write_log(log: pd.DataFrame, path: str | Path, spec: DatasetSpec) -> None:
    """Write a canonical log as Parquet."""
    missing = [name for name in spec.columns if name not in log]
    if missing:
        raise LogError(f"{path}: the log to write lacks {', '.join(missing)}")
    table = pa.Table.from_pandas(log[list(spec.columns)], schema=schema(spec), preserve_index=False)
    with _atomic(Path(path)) as temporary:
        pq.write_table(table.replace_schema_metadata(None), temporary, compression="zstd")


def schema(spec: DatasetSpec) -> pa.Schema:
    """Arrow types of the canonical log."""
    kinds = {"numeric": pa.float64(), "categorical": pa.string()}
    types = {
        **dict.fromkeys(("user_id", "campaign_id", "channel"), pa.string()),
        "timestamp": pa.timestamp("us", tz="UTC"),
        **dict.fromkeys(("cost", "revenue", "propensity"), pa.float64()),
        **dict.fromkeys(("click", "conversion"), pa.int64()),
        **{c.name: kinds[c.kind] for c in (*spec.context, *spec.static, *spec.outcomes)},
    }
    return pa.schema([(name, types[name]) for name in spec.columns])


def fingerprint(log: pd.DataFrame) -> str:
    """SHA-256 (hex) of a canonical log's content: the same for equal data, however it is stored."""
    digest = hashlib.sha256()
    for name, column in log.items():
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            content = column.astype("datetime64[us, UTC]").astype("int64").to_numpy().tobytes()
        elif pd.api.types.is_numeric_dtype(column):
            content = column.to_numpy(dtype="<f8", na_value=np.nan).tobytes()
        else:
            present = column.notna()
            text = column[present].astype(str)
            content = present.to_numpy().tobytes() + "".join(text).encode() + text.str.len().to_numpy("<i8").tobytes()
        digest.update(f"{name}:{len(content)}:".encode() + content)
    return digest.hexdigest()


class _Check:
    """Parses columns and collects faults, rule by rule; a cell is blamed once, for the first rule that it breaks."""

    def __init__(self, raw: pd.DataFrame, adapted: Adapted) -> None:
        self.raw = raw
        self.adapted = adapted
        self.parsed: dict[str, pd.Series] = {}
        self.blamed: dict[str, NDArray[np.bool_]] = {}
        self.reasons = np.full(len(raw), "", dtype=object)
        self.faults: list[Fault] = []

    def __getitem__(self, name: str) -> pd.Series:
        return self.parsed[name]

    def flag(self, rule: str, name: str, mask: ArrayLike, hint: str = "") -> None:
        """Blame the cells of a column where `mask` is true."""
        blamed = self.blamed.setdefault(name, np.zeros(len(self.raw), dtype=bool))
        rows = np.flatnonzero(np.asarray(mask, dtype=bool) & ~blamed)
        if not rows.size:
            return
        blamed[rows] = True
        column = self.adapted.source.get(name, name)
        shown = self.raw[column] if column in self.raw else self.adapted.frame[name]
        value = shown.iloc[rows[0]]
        example = "" if rule == "missing_value" else repr(value.item() if isinstance(value, np.generic) else value)
        self.faults.append(Fault(rule, column, len(rows), example, int(rows[0]) + 1, hint))
        self.reasons[rows] += f"{rule} ({column}); "

    def text(self, name: str, missing: str = "error") -> None:
        """Parse a column of names."""
        values = self.adapted.frame[name]
        if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
            values = values.astype("Int64")  # whole numbers that became floats because some are missing
        empty = values.isna() | (values.astype(str).str.strip() == "")
        self.parsed[name] = values.astype(str).astype(object).where(~empty, None)
        if missing == "error":
            self.flag("missing_value", name, empty)

    def number(self, name: str, missing: str = "error") -> None:
        """Parse a column of finite numbers."""
        values = self.adapted.frame[name]
        empty = values.isna()
        parsed = pd.to_numeric(values, errors="coerce").astype(float)
        parsed = parsed.where(np.isfinite(parsed))
        if missing == "error":
            self.flag("missing_value", name, empty)
        self.flag("not_a_number", name, parsed.isna() & ~empty)
        self.parsed[name] = parsed.where(~empty, 0.0) if missing == "zero" else parsed

    def time(self, name: str) -> None:
        """Parse a column of times; those without a zone are taken as UTC."""
        values = self.adapted.frame[name]
        if pd.api.types.is_numeric_dtype(values):  # pandas would guess the unit
            parsed = pd.Series(pd.NaT, values.index)
        else:
            parsed = pd.to_datetime(values, utc=True, format="ISO8601", errors="coerce")
        self.parsed[name] = parsed.astype("datetime64[us, UTC]")
        self.flag("unparsable_timestamp", name, parsed.isna(), "; expected ISO 8601, such as 2024-01-31T12:00:00Z")

    def journeys(self, static: list[str], least: int) -> None:
        """Judge the remaining rows user by user."""
        rows = self._unblamed("user_id", "timestamp")
        self._flag_rows("duplicate_touchpoint", "timestamp", rows.index[rows.duplicated()])
        for name in static:
            rows = self._unblamed("user_id", name).dropna()
            changed = rows[name] != rows.groupby("user_id")[name].transform("first")
            self._flag_rows("changing_static", name, rows.index[changed])
        rows = self._unblamed("user_id")
        few = rows.groupby("user_id")["user_id"].transform("size") < least
        hint = f"; at least {least} usable ones are needed (min_touchpoints of the data set)"
        self._flag_rows("single_touchpoint", "user_id", rows.index[few], hint)

    def result(self, spec: DatasetSpec) -> Validation:
        """Split the rows."""
        bad = self.reasons != ""
        good = pd.DataFrame({name: self.parsed[name] for name in spec.columns})[~bad]
        good = good.astype({"click": "int64", "conversion": "int64"})
        good = good.sort_values(["user_id", "timestamp"], ignore_index=True)
        side = self.raw[bad].copy()
        side.insert(0, "row", np.flatnonzero(bad) + 1, allow_duplicates=True)
        reasons = [reason.removesuffix("; ") for reason in self.reasons[bad]]
        side.insert(side.shape[1], "fault", reasons, allow_duplicates=True)
        return Validation(good, side, tuple(self.faults))

    def _unblamed(self, *names: str) -> pd.DataFrame:
        rows: pd.DataFrame = pd.DataFrame({name: self.parsed[name] for name in names})[self.reasons == ""]
        return rows

    def _flag_rows(self, rule: str, name: str, rows: pd.Index, hint: str = "") -> None:
        mask = np.zeros(len(self.raw), dtype=bool)
        mask[rows] = True
        self.flag(rule, name, mask, hint)


def _check_columns(names: list[str], path: Path, spec: DatasetSpec) -> None:
    """Every column that the data set needs must be there, once."""
    required = adapter_of(spec).required(spec)
    twice = [name for name in required if names.count(name) > 1 or f"{name}.1" in names]
    if twice:
        raise LogError(f"{path}: column {twice[0]!r} appears twice")
    missing = [name for name in required if name not in names]
    if not missing:
        return
    shown = ["the unnamed first column (row index)" if name == INDEX else name for name in missing]
    lines = [f"{path}: not a {spec.name!r} log: {spec.description}", f"missing columns: {', '.join(shown)}"]
    lines.append(f"columns in the file: {', '.join(names)}")
    others = [o for o in map(DatasetSpec.load, built_in()) if set(adapter_of(o).required(o)) <= set(names)]
    if others:
        lines.append(f"the file looks like data set {others[0].name!r}")
    elif len(missing) <= 3:
        further = [name for name in names if name not in required]
        near = {name: difflib.get_close_matches(name, further, 1) for name in missing}
        lines += [f"did you mean {found[0]!r} to be {name!r}?" for name, found in near.items() if found]
    raise LogError("\n".join(lines))


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A path to write to; its content takes the place of `path` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
