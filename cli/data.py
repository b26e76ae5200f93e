"""A log of your own: check it, look at it, prepare it for training.

    mtorl data validate log.csv --dataset my-log.yaml
    mtorl data describe log.csv --dataset my-log.yaml --out page.html
    mtorl data build log.csv --dataset my-log.yaml --out data/my-log

A data set is described once, in a small YAML (docs/data.md); for some public logs it is built in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Steps, examples, keep_examples, stop, stop_on_signals, was_signalled

if TYPE_CHECKING:
    from features.ingest.ingest import IngestReport
    from features.sequences.manifest import Manifest

app = typer.Typer(help=examples(__doc__), no_args_is_help=True, rich_markup_mode=None)


class BadRows(StrEnum):
    """What to do with a log that has faulty rows."""

    fail = "fail"
    quarantine = "quarantine"


class EngineName(StrEnum):
    """Where features are computed."""

    duckdb = "duckdb"
    spark = "spark"


Dataset = Annotated[str, typer.Option(help="Built-in data set name, or the path of its YAML description.")]
Trusted = Annotated[
    bool,
    typer.Option("--trusted", help="LOG is canonical Parquet (a file, or a folder of parts): don't check its rows."),
]
EngineOption = Annotated[
    EngineName, typer.Option(envvar="ENGINE", help="duckdb: this machine. spark: what spark-submit says, else local.")
]


@app.command()
def validate(
    log: Annotated[str, typer.Argument(metavar="LOG", help="Raw log: CSV, CSV.gz, TSV.gz, Parquet ...")],
    dataset: Dataset,
    quarantine: Annotated[
        Path | None, typer.Option(help="Write the faulty rows to this CSV, whole, each with its reasons.")
    ] = None,
) -> None:
    """Check a log row by row. Nothing is written but the quarantine file.

        mtorl data validate log.csv.gz --dataset kuairand-sequence
        mtorl data validate log.csv --dataset my-log.yaml --quarantine faulty.csv

    Exit code 0: every row can be used. 1: some can't. 2: the file can't be read, or is not such a log.
    """
    with _stops():
        from features.ingest.ingest import validate_log
        from mtorl.log.dataset import DatasetSpec

        with Steps() as steps, steps.step("validate-log"):
            report = validate_log(log, DatasetSpec.load(dataset), quarantine)
    _print_report(log, report, quarantine)
    raise typer.Exit(1 if report.quarantined else 0)


@app.command()
def describe(
    log: Annotated[
        str,
        typer.Argument(metavar="LOG", help="Raw log, or a folder of data build or run. None: the simulator."),
    ] = "",
    dataset: Dataset = "",
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("description.html"),
    trusted: Trusted = False,
    engine: EngineOption = EngineName.duckdb,
) -> None:
    """Draw a log on a page. Journeys, channels, rewards, propensities, cost, missing values.

        mtorl data describe                            the simulator
        mtorl data describe log.csv --dataset my-log.yaml --out page.html
        mtorl data describe runs/latest                the log of a run

    Faulty rows are left out; the page says how many, and why.
    """
    with _stops():
        from features.data_folder import canonical_log
        from features.describe.figures import describe as figures_of
        from features.describe.page import render
        from features.engine import open_engine
        from features.ingest.log_folder import RawLog

        # Beside the page, not in /tmp, which may be small or in memory: a canonical log may be large.
        out.parent.mkdir(parents=True, exist_ok=True)
        with Steps() as steps, tempfile.TemporaryDirectory(dir=out.parent, prefix=".describe-") as folder:
            with steps.step("validate-log"):
                place = Path(folder)
                raw = RawLog(log, dataset, BadRows.quarantine)
                usable = canonical_log(raw, place / "log", place / "faulty.csv", trusted)
            with steps.step("describe-log"), open_engine(engine) as opened:
                found = figures_of(opened, usable.path, usable.spec)
            if usable.report is not None:
                faults = tuple(str(fault) for fault in usable.report.faults)
                found = replace(found, quarantined=usable.report.quarantined, faults=faults)
            render(found, out)
    typer.echo(f"{found.rows:,} touchpoints of {found.users:,} users")
    if found.quarantined:
        typer.echo(f"left out: {found.quarantined:,} faulty rows; see them with: mtorl data validate")
    typer.echo(f"page: {out}")


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder to make; an earlier build there is replaced.")],
    log: Annotated[
        str, typer.Argument(metavar="LOG", help="Raw log, or a folder of data build or run. None: the simulator.")
    ] = "",
    dataset: Dataset = "",
    bad_rows: Annotated[
        BadRows, typer.Option(help="fail: stop at a faulty log. quarantine: go on without its faulty rows.")
    ] = BadRows.fail,
    trusted: Trusted = False,
    engine: EngineOption = EngineName.duckdb,
) -> None:
    r"""Make what training reads. A folder with canonical log, feature sources and causal windows.

        mtorl data build --out data/simulated          the simulator
        mtorl data build log.csv --dataset my-log.yaml --out data/my-log
        mtorl data build runs/latest --out data/again  the log of a run

    Tell it to go on without faulty rows by --bad-rows quarantine; they are kept in OUT.quarantine.csv.

    On a Spark cluster it is the same command under spark-submit; log and folder are then on a volume that all pods see.
    A log of hundreds of millions of rows is best exported in the canonical layout (docs/data.md) and trusted:

        ENGINE=spark mtorl data build /data/touchpoints.parquet --trusted \
            --dataset my-log.yaml --out /data/my-log

    Repeated rows, ties in time and bots are taken care of even then.
    """
    with _stops():
        from features.data_folder import build as build_folder
        from features.engine import open_engine
        from features.ingest.log_folder import RawLog

        with Steps() as steps, open_engine(engine) as opened:
            manifest = build_folder(opened, RawLog(log, dataset, bad_rows), out, trusted, steps.step)
    _print_manifest(manifest, out)


@contextmanager
def _stops() -> Iterator[None]:
    """Turn what can't be used into one line and exit code 2, and Ctrl-C into 130."""
    stop_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        stop("stopped", 130)
    except Exception as error:
        if was_signalled():
            stop("stopped", 130)
        from mtorl.log.dataset import SpecError
        from mtorl.log.touchpoints import LogError

        if isinstance(error, LogError | SpecError | OSError):
            stop(str(error), 2)
        if type(error) is RuntimeError:  # no Spark here; what else is one is a fault of ours and shows its traceback
            stop(str(error), 1)
        raise


def _print_report(log: str, report: IngestReport, quarantine: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if report.faults:
        table = Table()
        table.add_column("rule", no_wrap=True)
        table.add_column("column", no_wrap=True)
        table.add_column("rows", justify="right")
        table.add_column("example", overflow="fold")
        table.add_column("row", justify="right")
        for fault in report.faults:
            # As text: square brackets in someone's log are no markup.
            example = f"{fault.example}{fault.hint}".removeprefix("; ")
            cells = (fault.rule, fault.column, f"{fault.count:,}", example, f"{fault.row:,}")
            table.add_row(*map(Text, cells))
        console.print(table)
    total = report.rows + report.quarantined
    lines = [f"{log}: {report.rows:,} of {total:,} rows can be used, of {report.users:,} users"]
    if report.moved_ties:
        lines.append(f"ties: {report.moved_ties:,} rows at the time of another one of their user count as 1 us later")
    if report.quarantined and quarantine:
        lines.append(f"faulty: {report.quarantined:,} rows, in {quarantine}, each with its reasons")
    elif report.quarantined:
        lines.append(f"faulty: {report.quarantined:,} rows; see them all with: --quarantine FILE")
    typer.echo("\n".join(lines))


_FIGURES = {
    "rows": "touchpoints",
    "users": "users",
    "one_touchpoint_users": "of them with one touchpoint",
    "journeys": "journeys",
    "session_breaks": "pauses that end a journey",
    "dropped_duplicates": "repeated rows, dropped",
    "moved_ties": "ties in time, moved by 1 us",
    "late_rows": "rows that arrived late",
    "capped_users": "bots, cut to their first touchpoints",
    "dropped_by_cap": "rows of bots, dropped",
}


def _print_manifest(manifest: Manifest, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("what")
    table.add_column("count", justify="right")
    for name, words in _FIGURES.items():
        table.add_row(words, f"{getattr(manifest, name):,}")
    table.add_row("shards", f"{len(manifest.shards):,}")
    Console().print(table)
    typer.echo(f"windows: {out / 'windows'}   content: {manifest.content_sha256[:16]}   engine: {manifest.engine}")


keep_examples(app)
