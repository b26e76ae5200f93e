"""Check, describe and prepare a log of your own for training.

    mtorl data simulate log.csv.gz                      an example log for the commands below
    mtorl data init log.csv                             writes log.yaml, a first description of it
    mtorl data validate log.csv --dataset my-log.yaml
    mtorl data describe log.csv --dataset my-log.yaml --out page.html
    mtorl data build log.csv --dataset my-log.yaml --out data/my-log --own-decisions lake
    mtorl data compact lake --dataset my-log.yaml
    mtorl data forget runs/latest --user u1

A short YAML file describes each data set (docs/data.md). Descriptions of some public logs are built in.
"""

import tempfile
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli import messages
from cli.commands import BadRows, CommandGroup, Dataset, OwnDecisions, Trusted
from cli.endings import exit_codes, stop

app = CommandGroup(__doc__ or "")


class EngineName(StrEnum):
    """The engine that computes features and compacts a lake."""

    duckdb = "duckdb"
    spark = "spark"


LogArgument = Annotated[
    str,
    typer.Argument(metavar="LOG", help="Raw log, s3://..., or a folder of data build or run. Empty: the simulator."),
]
RawLogArgument = Annotated[
    str, typer.Argument(metavar="LOG", help="Raw log: CSV, TSV or JSON lines (also .gz), Parquet, a folder, s3://...")
]
EngineOption = Annotated[
    EngineName, typer.Option(envvar="ENGINE", help="duckdb: local. spark: spark-submit's cluster, else local Spark.")
]


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to write: .csv, .csv.gz or .parquet.")],
    users: Annotated[int, typer.Option(help="Users; each has 12 touchpoints on average.", min=1)] = 6000,
    seed: Annotated[int, typer.Option(help="Random seed of the simulation.", min=0)] = 7,
) -> None:
    """Write an example log from the built-in simulator, to try the other commands with it.

        mtorl data simulate raw.csv.gz --users 2000
        mtorl data validate raw.csv.gz --dataset simulator
        mtorl run --data raw.csv.gz --dataset simulator

    The last command treats the example like a real log. It does not simulate new users, but replays the logged
    decisions of users who were not in the training.
    """
    from mtorl.simulator.raw_log import write_raw_log
    from mtorl.simulator.simulator import SimulatorConfig

    with exit_codes():
        rows = write_raw_log(out, SimulatorConfig(users=users, seed=seed))
    typer.echo(f"{out}: {rows:,} touchpoints of {users:,} users; its description: --dataset simulator")


@app.command()
def init(
    log: RawLogArgument,
    out: Annotated[Path | None, typer.Option(help="File to write; LOG's name with .yaml by default.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="LOG_COLUMN=NAME", help="A column that you know already; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Draft a description of a log. In the draft, CHECK marks a question that you must answer, and NOTE a remark.

        mtorl data init log.csv
        mtorl data init log.csv --column channel=slot --column campaign_id=line_item
        mtorl data validate log.csv --dataset log.yaml

    The draft is a guess from the names and values of the columns. For example, a column of times becomes the timestamp.
    Read the file before you use it. To answer a CHECK, correct the line below it if needed, and delete the comment. No
    command accepts the file while it contains a CHECK. If later outcomes are in a second file, describe that file
    yourself: docs/data.md.
    """
    with exit_codes():
        from cli.progress_bars import ProgressBars
        from features.ingest.draft import draft_description, file_stem

        named = dict(pair.partition("=")[::2] for pair in column or [])
        target = out or Path(f"{file_stem(log)}.yaml")
        if target.exists() and not force:
            stop(f"{target} already exists. Give another name with --out, or --force to replace it", 2)
        with ProgressBars() as bars, bars.step("inspect the log"):
            text = draft_description(log, named)
        target.write_text(text, encoding="utf-8")
    typer.echo(text)
    if questions := text.count("# CHECK"):
        typer.echo(
            f"answer each CHECK ({questions}) in {target}: correct the line below if needed, and delete the comment. "
            "Or name the column with --column"
        )
    typer.echo(f"next: mtorl data validate {log} --dataset {target}")


@app.command()
def validate(
    log: RawLogArgument,
    dataset: Dataset,
    quarantine: Annotated[
        Path | None, typer.Option(help="Write each faulty row, with the reasons, to this CSV file.")
    ] = None,
) -> None:
    """Check each row of a log, and print the faults. Only the file of --quarantine is written.

        mtorl data validate log.csv.gz --dataset kuairand-sequence
        mtorl data validate log.csv --dataset my-log.yaml --quarantine faulty.csv

    Exit code 0: all rows are valid. 1: some rows are faulty. 2: the file can't be read or does not fit the description.
    """
    with exit_codes():
        from cli.progress_bars import ProgressBars
        from cli.tables import print_faults
        from features.ingest.ingest import validate_log
        from mtorl.log.dataset import DatasetSpec

        with ProgressBars() as bars, bars.step("validate the log"):
            report = validate_log(log, DatasetSpec.load(dataset), quarantine)
    print_faults(log, report, quarantine)
    faulty = report.quarantined or (report.conversions and report.conversions.faulty)
    raise typer.Exit(1 if faulty else 0)


@app.command()
def describe(
    log: LogArgument = "",
    dataset: Dataset = "",
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("description.html"),
    trusted: Trusted = False,
    engine: EngineOption = EngineName.duckdb,
) -> None:
    """Write an HTML page about a log: journeys, channels, rewards, propensities, cost and missing values.

        mtorl data describe                            the simulator
        mtorl data describe log.csv --dataset my-log.yaml --out page.html
        mtorl data describe runs/latest                the log of a run

    Faulty rows are left out. The page shows how many there are, by kind of fault.
    """
    with exit_codes():
        from cli.progress_bars import ProgressBars
        from features.data_folder import canonical_log
        from features.describe.figures import describe as figures_of
        from features.describe.page import render
        from features.engine import open_engine
        from features.ingest.log_folder import RawLog

        # The log may be large, and /tmp small or in memory.
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            ProgressBars() as bars,
            tempfile.TemporaryDirectory(dir=out.parent, prefix=".describe-") as folder,
            open_engine(engine) as opened,
        ):
            with bars.step("validate the log"):
                place = Path(folder)
                raw = RawLog(log, dataset, "quarantine")
                usable = canonical_log(raw, place / "log", place / "faulty.csv", trusted)
            with bars.step("describe the log"):
                figures = figures_of(opened, usable.path, usable.spec)
            if usable.report is not None:
                faults = tuple(str(fault) for fault in usable.report.faults)
                figures = replace(figures, quarantined=usable.report.quarantined, faults=faults)
            render(figures, out)
    typer.echo(f"{figures.rows:,} touchpoints of {figures.users:,} users")
    if figures.quarantined:
        typer.echo(f"left out: {figures.quarantined:,} faulty rows; list them with: mtorl data validate")
    typer.echo(f"page: {out}")


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder to create; replaces an earlier build.")],
    log: LogArgument = "",
    dataset: Dataset = "",
    bad_rows: BadRows = "fail",
    trusted: Trusted = False,
    own_decisions: OwnDecisions = "",
    engine: EngineOption = EngineName.duckdb,
) -> None:
    r"""Build a folder of training inputs: canonical log, feature sources and causal windows.

        mtorl data build --out data/simulated          the simulator
        mtorl data build log.csv --dataset my-log.yaml --out data/my-log
        mtorl data build runs/latest --out data/again  the log of a run
        mtorl data build log.csv --dataset my-log.yaml --out data/my-log --own-decisions lake
        mtorl run --data data/my-log --dataset my-log.yaml

    With --bad-rows quarantine, faulty rows go to OUT.quarantine.csv instead of stopping the build.

    On a Spark cluster, run the same command under spark-submit, with log and folder on a volume that all pods share.
    Export a log of hundreds of millions of rows in the canonical layout (docs/data.md), and skip the check of its rows:

        ENGINE=spark mtorl data build /data/touchpoints.parquet --trusted \
            --dataset my-log.yaml --out /data/my-log

    Repeated rows, rows at the same time and bots are handled even then.

    With --own-decisions, the exposures in a lake are added to the log. The lake may still be empty.

    The training pipeline accepts the folder OUT as its source, and then does not build the windows again.
    """
    with exit_codes():
        from cli.progress_bars import ProgressBars
        from cli.tables import print_build
        from features.data_folder import build as build_folder
        from features.engine import open_engine
        from features.ingest.log_folder import Built, RawLog

        with ProgressBars() as bars, open_engine(engine) as opened:
            manifest = build_folder(opened, RawLog(log, dataset, bad_rows), out, trusted, own_decisions, bars.step)
    print_build(manifest, out)
    if own_decisions:
        typer.echo(Built(out).summary())


@app.command()
def compact(
    lake: Annotated[
        str, typer.Argument(metavar="LAKE", help="Folder or URI of the lake, as `lake:` in the router's settings.")
    ],
    dataset: Annotated[str, typer.Option(help="Also count usable decisions: data set name, or its YAML.")] = "",
    engine: EngineOption = EngineName.duckdb,
) -> None:
    """Move uploaded records into a few sorted files for each hour of decisions. Run this command every hour.

        mtorl data compact /mnt/mtorl/lake
        mtorl data compact "s3://ads/lake?region=eu-central-1"
        mtorl data compact runs/latest/lake --dataset simulator
        mtorl run --data log.csv --dataset my-log.yaml --own-decisions lake

    Routers upload one file a minute, and many small files make reading slow. The command merges the files of an hour
    ten minutes after its end, and adds outcomes that arrive later. No record is lost if the command is killed and
    repeated, runs twice at the same time, or runs while the lake is read. On a Spark cluster, use spark-submit.

    With --dataset, the command also counts the decisions from which a training could learn. It counts the others by
    reason, for example pending outcomes or unknown probabilities.

    Exit code 0: done. 1: an unreadable file was moved to unreadable/, and all others were compacted. 2: the lake can't
    be read or written.
    """
    with exit_codes():
        from datetime import UTC, datetime

        from cli.progress_bars import ProgressBars
        from features.collect.compact import compact as compact_lake
        from features.collect.training_log import learnable
        from mtorl.log.dataset import DatasetSpec
        from mtorl.log.lake import Lake

        spec = DatasetSpec.load(dataset) if dataset else None
        with ProgressBars() as bars:
            with bars.step("compact the lake"):
                done = compact_lake(Lake.open(lake), datetime.now(UTC), engine)
            lines = [f"{lake}: {done}"]
            if spec is not None:
                with bars.step("count usable decisions"):
                    lines.append(str(learnable(lake, spec, engine=engine)))
    typer.echo("\n".join(lines))
    raise typer.Exit(1 if done.unreadable else 0)


@app.command()
def forget(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Run folder, data volume or part of one; or a lake in a bucket.")
    ],
    user: Annotated[list[str] | None, typer.Option(metavar="ID", help="User to remove; may be repeated.")] = None,
    users_file: Annotated[Path | None, typer.Option(help="File with more users to remove, one id per line.")] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Also remove older decisions, outcomes and touchpoints.")
    ] = None,
    feature_repo: Annotated[
        Path | None, typer.Option(help="Feast repository outside FOLDER that names the online store.")
    ] = None,
    log: Annotated[
        str, typer.Option(help="Another raw log to search; the sources of FOLDER's logs are always searched.")
    ] = "",
    dataset: Annotated[str, typer.Option(help="Description of --log.")] = "",
) -> None:
    """Remove users or old records from a folder's logs, features, windows, decisions and online store.

        mtorl data forget runs/latest --user u000017
        mtorl data forget /mnt/mtorl --users-file ids.txt --feature-repo /etc/mtorl/features
        mtorl data forget /mnt/mtorl --older-than 400
        mtorl data forget "s3://ads/lake?region=eu-central-1" --user u1
        mtorl data forget /mnt/mtorl --user u1 --log log.csv --dataset my-log.yaml

    The command searches all stores in FOLDER; docs/privacy.md lists them. Give it the top folder, because later uploads
    and compactions into this folder or its subfolders then leave out the users' past records. If the command was
    interrupted, run it again. Run it once more to confirm that nothing is left.

    Models do not change. The command lists the models that were trained on the users, and your own source files that
    still contain them. Remove the users from those files, or the next read restores them.

    Exit code 0: no records of the users are left, except those that the command lists. 1: a store could not be read or
    written. 2: there is no such folder, or another command is using it.
    """
    with exit_codes():
        from datetime import UTC, datetime, timedelta

        from cli.progress_bars import ProgressBars
        from cli.tables import print_forgotten
        from features.collect.removal import ASIDE, forget_in_bucket, unreadable
        from features.forget.folder import Report
        from features.forget.folder import forget as forget_in
        from features.ingest.log_folder import Origin
        from mtorl.log.dataset import DatasetSpec
        from mtorl.log.lake import Lake
        from mtorl.log.touchpoints import LogError
        from serving.decision_log.forget import forget_in_spools

        listed = users_file.read_text(encoding="utf-8").splitlines() if users_file else []
        users = frozenset(name for name in [*(user or []), *map(str.strip, listed)] if name)
        if not users and older_than is None:
            raise LogError(messages.NO_USERS())
        bucket = "://" in folder
        if not bucket and not Path(folder).is_dir():
            raise LogError(messages.NO_FOLDER(folder=folder))
        if bucket and (log or feature_repo):
            raise LogError(messages.BUCKET_ALONE(address=folder))
        if older_than is not None and older_than <= 0:
            raise LogError(messages.NO_DAYS(days=older_than))
        if bool(log) != bool(dataset):
            raise LogError(messages.LOG_AND_DATASET())
        origin = Origin.of(log, DatasetSpec.load(dataset)) if log else None
        now = datetime.now(UTC)
        before = None if older_than is None else now - timedelta(days=older_than)
        with ProgressBars() as bars, bars.step("find and remove records"):
            if bucket:
                lake, spools = Lake.open(folder), {}
                report = Report(forget_in_bucket(lake, users, now, before), [*map(ASIDE.format, unreadable(lake))])
            else:
                report = forget_in(folder, users, now, before, feature_repo, origin)
                spools = forget_in_spools(Path(folder), users, now)
    print_forgotten(folder, report, spools)
    raise typer.Exit(1 if report.failed else 0)
