"""A log of your own: check it, look at it, prepare it for training.

    mtorl data simulate log.csv.gz                      a log to try the rest on
    mtorl data init log.csv                             writes log.yaml, a first description of it
    mtorl data validate log.csv --dataset my-log.yaml
    mtorl data describe log.csv --dataset my-log.yaml --out page.html
    mtorl data build log.csv --dataset my-log.yaml --out data/my-log --own-decisions lake
    mtorl data compact lake --dataset my-log.yaml
    mtorl data forget runs/latest --user u1

A data set is described once, in a small YAML (docs/data.md); for some public logs it is built in.
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
    """Engine that computes features and compacts a lake."""

    duckdb = "duckdb"
    spark = "spark"


LogArgument = Annotated[
    str, typer.Argument(metavar="LOG", help="Raw log, s3://..., or a folder of data build or run. None: the simulator.")
]
RawLogArgument = Annotated[
    str, typer.Argument(metavar="LOG", help="Raw log: CSV, TSV or JSON lines (also .gz), Parquet, a folder, s3://...")
]
EngineOption = Annotated[
    EngineName, typer.Option(envvar="ENGINE", help="duckdb: this machine. spark: what spark-submit says, else local.")
]


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to write: .csv, .csv.gz or .parquet.")],
    users: Annotated[int, typer.Option(help="Users; each has 12 touchpoints on average.", min=1)] = 6000,
    seed: Annotated[int, typer.Option(help="Seed of the users and of all that they do.", min=0)] = 7,
) -> None:
    """Write a raw log of the built-in simulator, as an example to try the other commands on.

        mtorl data simulate raw.csv.gz --users 2000
        mtorl data validate raw.csv.gz --dataset simulator
        mtorl run --data raw.csv.gz --dataset simulator

    The last one treats it as any real log: what users would have done otherwise is not known, so the online part
    replays what held-out users did.
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
        list[str] | None, typer.Option(metavar="LOG_COLUMN=NAME", help="What you know already; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Draft a description of a log. CHECK marks a question that you must answer, NOTE a remark.

        mtorl data init log.csv
        mtorl data init log.csv --column channel=slot --column campaign_id=line_item
        mtorl data validate log.csv --dataset log.yaml

    It goes by names and by values: a column is a time because its values are times. Read the file before you use it. No
    command reads it before each CHECK is answered: mend the line below or leave it, and delete the comment. A second
    file, with outcomes that came later, is described by hand: docs/data.md.
    """
    with exit_codes():
        from cli.progress_bars import ProgressBars
        from features.ingest.draft import draft_description, file_stem

        named = dict(pair.partition("=")[::2] for pair in column or [])
        target = out or Path(f"{file_stem(log)}.yaml")
        if target.exists() and not force:
            stop(f"{target}: is there already; give --out another name, or --force to replace it", 2)
        with ProgressBars() as bars, bars.step("look at the log"):
            text = draft_description(log, named)
        target.write_text(text, encoding="utf-8")
    typer.echo(text)
    if questions := text.count("# CHECK"):
        typer.echo(
            f"answer each CHECK ({questions}) in {target}: mend the line below it, or leave it if it is right, and "
            "delete the comment; or say which column it is: --column"
        )
    typer.echo(f"next: mtorl data validate {log} --dataset {target}")


@app.command()
def validate(
    log: RawLogArgument,
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
    with exit_codes():
        from cli.progress_bars import ProgressBars
        from features.data_folder import canonical_log
        from features.describe.figures import describe as figures_of
        from features.describe.page import render
        from features.engine import open_engine
        from features.ingest.log_folder import RawLog

        # Beside the page, not in /tmp, which may be small or in memory: a canonical log may be large.
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
        typer.echo(f"left out: {figures.quarantined:,} faulty rows; see them with: mtorl data validate")
    typer.echo(f"page: {out}")


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder to make; an earlier build there is replaced.")],
    log: LogArgument = "",
    dataset: Dataset = "",
    bad_rows: BadRows = "fail",
    trusted: Trusted = False,
    own_decisions: OwnDecisions = "",
    engine: EngineOption = EngineName.duckdb,
) -> None:
    r"""Build the inputs of a training. A folder with canonical log, feature sources and causal windows.

        mtorl data build --out data/simulated          the simulator
        mtorl data build log.csv --dataset my-log.yaml --out data/my-log
        mtorl data build runs/latest --out data/again  the log of a run
        mtorl data build log.csv --dataset my-log.yaml --out data/my-log --own-decisions lake
        mtorl run --data data/my-log --dataset my-log.yaml

    Tell it to go on without faulty rows by --bad-rows quarantine; they are kept in OUT.quarantine.csv.

    On a Spark cluster it is the same command under spark-submit; log and folder are then on a volume that all pods see.
    A log of hundreds of millions of rows is best exported in the canonical layout (docs/data.md) and trusted:

        ENGINE=spark mtorl data build /data/touchpoints.parquet --trusted \
            --dataset my-log.yaml --out /data/my-log

    Repeated rows, ties in time and bots are taken care of even then.

    With --own-decisions, the folder's log has the exposures among a lake's decisions, too, whether there are any yet or
    not. Such a folder is a source of the training pipeline, which then builds no windows of its own.
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
    dataset: Annotated[str, typer.Option(help="Say what decisions teach: built-in data set, or its YAML.")] = "",
    engine: EngineOption = EngineName.duckdb,
) -> None:
    """Move uploaded records into the hours of their decisions, in few sorted files. Run it every hour.

        mtorl data compact /mnt/mtorl/lake
        mtorl data compact "s3://ads/lake?region=eu-central-1"
        mtorl data compact runs/latest/lake --dataset simulator
        mtorl run --data log.csv --dataset my-log.yaml --own-decisions lake

    Routers upload a file each minute; readers get slower with each file that waits. An hour is closed ten minutes after
    its end, and gains the outcomes that come later. A run that was killed can be repeated, two runs at once lose
    nothing, and readers need not stop. On a Spark cluster it is the same command under spark-submit.

    With --dataset, it says what a training would learn from the decisions. A decision whose outcome may still come, or
    whose probabilities are unknown, says nothing about a policy's value: such decisions are counted by reason.

    Exit code 0: done. 1: a file could not be read; it lies in unreadable/ now, and all others were taken. 2: the lake
    can't be read or written.
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
                with bars.step("see what its decisions teach"):
                    lines.append(str(learnable(lake, spec, engine=engine)))
    typer.echo("\n".join(lines))
    raise typer.Exit(1 if done.unreadable else 0)


@app.command()
def forget(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Of a run, a data volume, or a part of one; or a lake in a bucket.")
    ],
    user: Annotated[list[str] | None, typer.Option(metavar="ID", help="Whom to forget; may be repeated.")] = None,
    users_file: Annotated[Path | None, typer.Option(help="More of them, an id a line.")] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Decisions, outcomes and touchpoints that are older go too.")
    ] = None,
    feature_repo: Annotated[
        Path | None, typer.Option(help="Feast repository outside FOLDER that names the online store.")
    ] = None,
    log: Annotated[
        str, typer.Option(help="Raw log to look into, besides those that FOLDER's logs were read from.")
    ] = "",
    dataset: Annotated[str, typer.Option(help="Description of --log.")] = "",
) -> None:
    """Remove users, or old records, from all that a folder keeps: logs, features, windows, decisions, online store.

        mtorl data forget runs/latest --user u000017
        mtorl data forget /mnt/mtorl --users-file ids.txt --feature-repo /etc/mtorl/features
        mtorl data forget /mnt/mtorl --older-than 400
        mtorl data forget "s3://ads/lake?region=eu-central-1" --user u1
        mtorl data forget /mnt/mtorl --user u1 --log log.csv --dataset my-log.yaml

    What it finds it knows by what it is; docs/privacy.md has a table of all stores. Name the folder that holds
    everything: what is uploaded or compacted into it or below it later leaves these users' past out.
    Nothing is done twice: run it again whenever it was interrupted, or to see that nothing is left.

    Models stay as they are. Those that were trained on the users are named. So are your own files from which a log was
    read, if the users are still in them: remove them there, or the next read brings them back.

    Exit code 0: nothing of the users is left but what the command names. 1: a store could not be read or written. 2:
    there is no such folder, or another run is at work in it.
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
        with ProgressBars() as bars, bars.step("look for what is kept, and remove it"):
            if bucket:
                lake, spools = Lake.open(folder), {}
                report = Report(forget_in_bucket(lake, users, now, before), [*map(ASIDE.format, unreadable(lake))])
            else:
                report = forget_in(folder, users, now, before, feature_repo, origin)
                spools = forget_in_spools(Path(folder), users, now)
    print_forgotten(folder, report, spools)
    raise typer.Exit(1 if report.failed else 0)
