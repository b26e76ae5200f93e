"""Reads log files as tables, and numbers their rows. CSV and JSON files are first copied to Parquet."""

import csv
import difflib
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from features import messages
from features.engine import Engine, is_unfinished
from features.ingest.object_store import copy
from mtorl.log.dataset import DatasetSpec
from mtorl.log.sources import is_remote
from mtorl.log.touchpoints import LogError
from mtorl.runtime.files import is_disk_full, replacing
from mtorl.runtime.message import Message, rephrased
from mtorl.runtime.sql import sql_name, sql_text

# Column with the row number, counted from 1.
ROW = "#row"
_FILE = "#file"
# Name of the first column if it has none, as in pandas.
INDEX = "Unnamed: 0"

_TEXT = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
_JSON = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_KINDS = (*_TEXT, *_JSON, ".parquet")
SEPARATORS = (",", ";", "\t", "|")
_LONGEST_HEADER = 1 << 20  # bytes
_UNREADABLE = (OSError, EOFError, UnicodeError, csv.Error, zlib.error, pa.ArrowException, duckdb.Error)


@contextmanager
def at_hand(path: str | Path, folder: Path) -> Iterator[Path]:
    """Yield a local path of a log. A log in an object store is first copied to `folder`."""
    if not is_remote(path):
        yield Path(path)
        return
    address = str(path)
    local = copy(address, folder)
    try:
        yield local
    except LogError as error:
        said = rephrased(error, str(error).replace(str(local), address))
        texts = {name: one.replace(str(local), address) for name, one in said.values.items() if isinstance(one, str)}
        error.args = (Message(said, said.code, said.values | texts),)
        raise


def parts(path: Path) -> list[Path]:
    """Return the file at `path`, or all log files in the folder and its subfolders, sorted by path.

    Raises:
        LogError: A file is missing or empty, a type is unknown, or the files have different types.
    """
    files = [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and file.name.endswith(_KINDS)]
        files = sorted(file for file in found if not is_unfinished(file.relative_to(path)))
        kinds = {next(kind for kind in _KINDS if file.name.endswith(kind)) for file in files}
        if not files:
            raise LogError(messages.NO_LOG_FILES(folder=path, kinds=_KINDS))
        if len(kinds) > 1:
            raise LogError(messages.MIXED_KINDS(folder=path, kinds=sorted(kinds)))
    for part in files:
        if not part.is_file():
            raise LogError(messages.NO_FILE(file=part))
        if part.stat().st_size == 0:
            raise LogError(messages.EMPTY_FILE(file=part))
        if not part.name.endswith(_KINDS):
            raise LogError(messages.UNKNOWN_KIND(file=part, kinds=_KINDS))
    return files


def columns_of(path: Path, files: Sequence[Path], separator: str | None = None) -> list[str]:
    """Return the column names of a log. A column without a name is called "Unnamed: <position>".

    Raises:
        LogError: The CSV files of a folder have different columns or column orders.
    """
    first = files[0]
    with readable(first):
        if first.name.endswith(".parquet"):
            return list(pq.read_schema(first).names)
        if first.name.endswith(_JSON):
            return list(_json_paths(files))
    names = _header(first, separator)
    for file in files[1:]:
        if _header(file, separator) != names:
            raise LogError(messages.OTHER_COLUMNS(folder=path, one=first.name, other=file.name))
    return names


def _header(path: Path, separator: str | None) -> list[str]:
    with readable(path), gzip.open(path) if path.name.endswith(".gz") else open(path, "rb") as file:
        lines = iter(lambda: file.readline(_LONGEST_HEADER).decode("utf-8").removeprefix("\ufeff"), "")
        names = next(csv.reader(lines, delimiter=separator or separator_of(path), strict=True))
    return [name or f"Unnamed: {place}" for place, name in enumerate(names)]


class MissingColumns(LogError):
    """Raised if a file lacks columns that its data set needs. `names` are the columns that the file has."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


def check_columns(
    path: Path, names: Sequence[str], required: Sequence[str], spec: DatasetSpec, where: str = "the description"
) -> None:
    """Check that a file has each required column exactly once.

    Raises:
        MissingColumns: A column is missing. The message suggests columns with similar names.
        LogError: Several columns have the same name, apart from case.
    """
    for name in required:
        same = [other for other in names if other.lower() == name.lower()]
        if name in same and len(same) > 1:
            raise LogError(messages.SAME_COLUMNS(file=path, columns=same))
    missing = [name for name in required if name not in names]
    if not missing:
        return
    shown = ["the unnamed first column (row index)" if name == INDEX else name for name in missing]
    lines = [f"columns in the file: {', '.join(names)}"]
    lines += [f"data set {spec.name!r}: {spec.description}"] * bool(spec.description)
    if len(missing) <= 3:
        further = [name for name in names if name not in required]
        near = {name: difflib.get_close_matches(name, further, 1) for name in missing}
        lines += [f"did you mean {names[0]!r} to be {name!r}?" for name, names in near.items() if names]
    if spec.adapter == "touchpoints" and not spec.columns and not spec.conversions:
        lines.append(f"if the columns have other names, add to the description: columns: {{{missing[0]}: NAME}}")
    if len(names) == 1 and (marks := [mark for mark in SEPARATORS if mark in names[0]]):
        lines.append(f"if the separator is {marks[0]!r}, add to {where}: file: {{separator: {marks[0]!r}}}")
    raise MissingColumns(messages.MISSING_COLUMNS(file=path, dataset=spec.name, missing=shown, hints=lines), names)


def read(engine: Engine, path: Path, scratch: Path, separator: str | None = None) -> ibis.Table:
    """Read a file, or all files of a folder, as one table with numbered rows (see `table`)."""
    files = parts(path)
    return table(engine, files, columns_of(path, files, separator), scratch, separator)


def table(
    engine: Engine, paths: Sequence[Path], names: Sequence[str], scratch: Path, separator: str | None = None
) -> ibis.Table:
    """Read files with the same columns as one table, and number its rows from 1 in `ROW`."""
    if not paths[0].name.endswith(".parquet"):
        paths = [_as_parquet(engine, paths, names, scratch, separator)]
    with readable(paths[0]):
        stored = engine.connection.read_parquet(
            [str(path) for path in paths], file_row_number=True, **({"filename": _FILE} if len(paths) > 1 else {})
        )
        row = stored["file_row_number"] + 1
        if len(paths) > 1:
            starts, start = [], 0
            for path in paths:
                starts.append((stored[_FILE] == str(path), start))
                start += pq.read_metadata(path).num_rows
            row += ibis.cases(*starts)
    # Ibis lacks DuckDB's type for pandas' times in nanoseconds with a time zone.
    times = {c: stored[c].cast("timestamp('UTC')") for c, t in stored.schema().items() if "TIMESTAMPTZ_NS" in str(t)}
    return stored.mutate({ROW: row, **times}).drop("file_row_number", *([_FILE] if len(paths) > 1 else []))


def write_marked(engine: Engine, raw: ibis.Table, marks: ibis.Table, name: str, path: Path) -> None:
    """Write rows of a raw file to a CSV, each with its row number and a remark, such as its faults."""
    rows = raw.join(marks, ROW).order_by(ROW)
    # The file may have columns with the names of the two new ones.
    own = {f"{c}.1" if c.lower() in ("row", name) else c: rows[c] for c in raw.columns if c != ROW}
    with replacing(path) as temporary:
        table = rows.select(row=rows[ROW], **own, **{name: rows["#mark"]})
        engine.connection.to_csv(table, str(temporary), header=True)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Convert errors of reading a file to a `LogError` that names the file."""
    try:
        yield
    except _UNREADABLE as error:
        if isinstance(error, duckdb.OutOfMemoryException) or is_disk_full(error):
            raise  # the memory or the disk is full; the file is fine
        kind = "Parquet" if path.name.endswith(".parquet") else "JSON" if path.name.endswith(_JSON) else "CSV"
        kind = "TSV" if separator_of(path) == "\t" else kind
        raise LogError(messages.UNREADABLE(file=path, kind=kind, reason=_first_words(error))) from error


def _as_parquet(
    engine: Engine, paths: Sequence[Path], names: Sequence[str], scratch: Path, separator: str | None
) -> Path:
    out = scratch / f"{len(list(scratch.iterdir()))}.parquet"
    connection = engine.connection
    path = paths[0]
    with readable(path):
        if path.name.endswith(_JSON):
            # Ibis can't infer the column types from a query of this DuckDB version.
            places = _json_paths(paths)
            fields = ", ".join(f"json->>{sql_text(path)} AS {sql_name(name)}" for name, path in places.items())
            query = f"SELECT {fields} FROM read_ndjson_objects([{', '.join(map(sql_text, paths))}])"
            raw = connection.sql(query, schema=dict.fromkeys(places, "string"))
        else:
            raw = connection.read_csv(
                [str(p) for p in paths],
                columns=dict.fromkeys(_distinct(names), "varchar"),
                delim=separator or separator_of(path),
                quote='"',
                escape='"',
                strict_mode=True,
                null_padding=False,
            )
        connection.raw_sql("SET preserve_insertion_order = true")
        try:
            connection.to_parquet(raw, str(out), compression="snappy")
        finally:
            connection.raw_sql("SET preserve_insertion_order = false")
    return out


def _json_paths(paths: Sequence[Path]) -> dict[str, str]:
    """Return the JSON path of each column of JSON lines files, by a name such as `ad.slot`."""
    with duckdb.connect() as connection:
        query = "SELECT json_group_structure(json) FROM read_ndjson_objects($files)"
        found = connection.execute(query, {"files": [str(path) for path in paths]}).fetchone()
    structure = json.loads(found[0]) if found and found[0] else {}
    if not (isinstance(structure, dict) and structure):
        raise LogError(messages.NOT_JSON_LINES(file=paths[0]))
    fields = list(_leaves(structure, ()))
    return dict(zip(_distinct([name for name, _ in fields]), (path for _, path in fields), strict=True))


def _leaves(structure: dict[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for key, inner in structure.items():
        place = (*above, key)
        if isinstance(inner, dict):
            yield from _leaves(inner, place)
        else:
            yield ".".join(place), "$" + "".join(f".{json.dumps(step, ensure_ascii=False)}" for step in place)


def _distinct(names: Sequence[str]) -> list[str]:
    """Make column names unique, ignoring case as DuckDB does, by adding a number to repeated names."""
    taken: set[str] = set()
    out = []
    for name in names:
        again, new = 0, name
        while new.lower() in taken:
            again += 1
            new = f"{name}.{again}"
        taken.add(new.lower())
        out.append(new)
    return out


def separator_of(path: Path) -> str:
    """Return the usual column separator of a text file with this extension, or "" for other files."""
    return next((mark for ending, mark in _TEXT.items() if path.name.endswith(ending)), "")


def _first_words(error: BaseException) -> str:
    """Return the cause and the position of a read error, without DuckDB's advice about settings."""
    if isinstance(error, UnicodeDecodeError) or "not utf-8 encoded" in str(error):
        return "the encoding is not UTF-8. Convert the file (iconv -f latin1 -t utf-8), or name it .gz if compressed"
    lines = [line.strip() for line in str(error).split("Possible")[0].splitlines()]
    lines = [line for line in lines if line and not line.startswith("Original Line")] or [type(error).__name__]
    if "state machine" in lines[0]:
        return "mixed line endings, or a quote that is not closed"
    where = [line for line in lines if "CSV Error on Line" in line]
    if not where:
        return lines[0]
    what = [line for line in lines if line.startswith(("Expected", "Invalid", "Value")) and line not in where]
    return "; ".join((where[0].replace("Invalid Input Error: CSV Error on Line:", "line"), *what[:1]))
