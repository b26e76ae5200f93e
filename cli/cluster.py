"""The commands `mtorl materialize` and `mtorl feed`, which keep the online feature store up to date."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import BadRows, CommandGroup, Dataset, OwnDecisions, Trusted
from cli.endings import exit_codes, stop

if TYPE_CHECKING:
    from features.ingest.log_folder import RawLog
    from features.online.written import Written

app = CommandGroup()

FeatureRepo = Annotated[Path, typer.Option(help="Feast repository.")]


@app.command()
def materialize(
    feature_repo: FeatureRepo,
    log: Annotated[Path, typer.Option(help="Current touchpoint log.")],
    dataset: Dataset,
    own_decisions: OwnDecisions = "",
    bad_rows: BadRows = "fail",
    trusted: Trusted = False,
    every_minutes: Annotated[
        float, typer.Option(help="Minimum minutes between two writes of new rows. An emptied store is filled at once.")
    ] = 0.0,
    everything: Annotated[
        bool, typer.Option("--everything", help="Compare all users with the log, not only users with new rows.")
    ] = False,
) -> None:
    r"""Bring the online store up to date with the touchpoint log.

        mtorl materialize --feature-repo runs/latest/features --log runs/latest/data/touchpoints.parquet \
            --dataset simulator
        mtorl materialize --feature-repo runs/latest/features --log log.csv --dataset my-log.yaml \
            --own-decisions lake --bad-rows quarantine

    Use the same log, lake and --bad-rows as for training. By default, a faulty row stops the command before it writes
    anything.

    On Redis, the command writes only users who have new rows since the last call, so you can run it every minute. If
    the store was emptied, or a call was interrupted, the next call completes it. If you have corrected outcomes in the
    log that are older than `outcome_hours`, run the command with --everything.

    Entries of users who are not in the log stay in the store.
    """
    import time

    from redis.exceptions import RedisError

    from features.ingest.log_folder import RawLog
    from features.online.written import Repository, StoreEmptied, Written
    from mtorl.log.dataset import DatasetSpec
    from mtorl.log.lake import Lake

    # A missing registry or log must be an error. Otherwise a job would succeed although its volume was lost.
    with exit_codes(StoreEmptied):
        try:
            spec, repository = DatasetSpec.load(dataset), Repository(feature_repo)
            decisions = Lake.open(own_decisions).snapshot() if own_decisions else ""
            uploaded, _, digest = decisions.partition(" ")
            source = repository.source(log, spec, digest)
            before = repository.written()
            if before and before.source == source and not everything:
                typer.echo("up to date")
                return
            if before and not everything and (left := before.at + every_minutes * 60 - time.time()) > 0:
                typer.echo(f"the log has new rows; the next write is due in {left:.0f} s")
                return
            now = Written(source, repository.definitions(spec), time.time(), uploaded)
            goes_on = before and before.definitions == now.definitions and not everything
            with repository.writing(now, before):
                raw = RawLog(str(log), dataset, bad_rows)
                _write_online(feature_repo, raw, trusted, own_decisions, now, before if goes_on else None)
            if own_decisions and not decisions:
                typer.echo(f"{own_decisions}: there are no decisions yet")
        except RedisError as error:
            stop(_first_line(error), 2)


def _write_online(
    feature_repo: Path, raw: RawLog, trusted: bool, own_decisions: str, now: Written, before: Written | None
) -> None:
    import sqlite3

    import duckdb

    from cli.progress_bars import ProgressBars
    from features.data_folder import canonical_log
    from features.ingest.ingest import with_remedy
    from features.offline.exposures import write_exposures
    from features.offline.store import Materialized
    from features.offline.store import materialize as write
    from mtorl.log.lake import Lake

    try:
        with ProgressBars() as bars, tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            with bars.step("validate the log"), with_remedy(None, raw.bad_rows):
                log = canonical_log(raw, place / "log", place / "faulty.csv", trusted)
            exposures, since = None, Materialized(0, 0, 0, before.until, before.rows) if before else None
            if now.uploaded:
                last = datetime.fromisoformat(before.uploaded) if before and before.uploaded else None
                until = datetime.fromisoformat(now.uploaded)
                with bars.step("read the lake"):
                    exposures = write_exposures(Lake.open(own_decisions), log.spec, place, until, last)
            with bars.step("write the online store"):
                done = write(feature_repo, log.spec, log.path, since=since, exposures=exposures)
        now.until, now.rows = done.until, done.rows
        newest = datetime.fromtimestamp(done.newest / 1e6, UTC)
    except (duckdb.Error, sqlite3.Error) as error:
        stop(_first_line(error), 2)
    if log.report is not None and log.report.quarantined:
        typer.echo(f"skipped {log.report.quarantined:,} faulty rows; mtorl data validate lists them")
    typer.echo(f"checked {done.users:,} users and wrote {done.written:,} rows")
    gap_days = log.spec.journey_gap_days
    if datetime.now(UTC) - newest > timedelta(days=gap_days):
        typer.echo(
            f"the newest touchpoint is from {newest:%Y-%m-%d}, and a history expires after {gap_days:g} days: "
            "today's decisions will find empty histories"
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


@app.command()
def feed(
    feature_repo: FeatureRepo,
    dataset: Dataset,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a pod.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8090,
) -> None:
    """Receive the events of routers, and add each exposure to the user's history in the online store.

    A router sends its events to this command if its settings contain `sink: http://HOST:PORT/`.
    """
    from features.online.feed import Feed
    from features.online.open_history import open_history
    from features.online.receiver import serve as serve_feed
    from features.online.written import Repository
    from mtorl.log.dataset import DatasetSpec

    with exit_codes(), open_history(feature_repo, DatasetSpec.load(dataset)) as history:
        feeding = Feed(history, feature_repo, Repository(feature_repo).registry)
        serve_feed(feeding, host, port)
