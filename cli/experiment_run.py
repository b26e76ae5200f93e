"""Where an experiment stands, and the ramp that takes it from stage to stage."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.endings import HARM
from cli.experiment import JsonOption, print_json
from cli.experiment_stages import (
    FileArgument,
    StateOption,
    app,
    check_router,
    shares_in_words,
    stage_errors,
    stands_now,
)

if TYPE_CHECKING:
    from mtorl.experiment.stage_machine import Hold, Move
    from pipelines.experiments.folder import ExperimentFolder

__all__ = ["app"]


@app.command()
def status(
    file: FileArgument,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say where it stands, who gets what, and what has happened to it.

        mtorl experiment status first-day.yaml

    It reads files alone: no server has to run. Of the log it says how old the newest decision is; `mtorl experiment
    watch` judges it, too, and says what to do. Exit codes: 5 it was rolled back, or is switched off; else 0.
    """
    with stage_errors():
        from mtorl.log.touchpoints import LogError
        from pipelines.experiments.controller import summary
        from pipelines.experiments.folder import ExperimentFolder
        from pipelines.experiments.look import newest_now

        folder = ExperimentFolder.of(file, state)
        found = {**summary(folder), "newest": None, "problem": None}
        try:
            found["newest"] = newest_now(folder, time.time())
        except LogError as error:
            found["problem"] = str(error)
    if as_json:
        print_json(found)
    else:
        _print_status(file, found)
    if found["killed"] or found["phase"] == "rolled back":
        raise typer.Exit(HARM)


def _print_status(file: Path, found: dict[str, Any]) -> None:
    from cli.tables import said_of_newest

    off = ", switched off" if found["killed"] else ""
    typer.echo(f"{found['experiment']}: {found['phase']}{off}: {shares_in_words(found['shares'])}")
    if found["holdout"]:
        keeps = ", and keep the incumbent of before: mtorl experiment watch says what the promotion brings"
        in_words = keeps if found["phase"] == "promoted" else ""
        typer.echo(f"  held out: {found['holdout']:.3g} of the users are in no arm{in_words}")
    if not found["in_force"]:
        typer.echo(f"  not in force yet, the file or the history has changed since: mtorl experiment run --once {file}")
    if found["problem"] is not None:
        typer.echo(f"  {found['problem']}")
    elif found["newest"] is not None:
        typer.echo(f"  {said_of_newest(found['newest'])}")
    for event in found["events"]:
        typer.echo(f"  {event['at']}  {event['what']:<14} by {event['by']}: {event['reason']}")


@app.command()
def run(
    file: FileArgument,
    state: StateOption = None,
    dataset: Annotated[str | None, typer.Option(help="The data set's description. None: that of mtorl serve.")] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, a line for each thing that it says.")] = False,
) -> None:
    """Take it from stage to stage, beside `mtorl serve`, until it is over or Ctrl-C.

        mtorl serve --experiment first-day.yaml          in one terminal
        mtorl experiment start first-day.yaml
        mtorl experiment run first-day.yaml              in another

    It may be away: what is in force stays in force, and it goes on from the history. Editing the file works while it
    runs; what can't be used is said, and changes nothing. A clock that is put forward is believed after an hour.
    """
    with stage_errors():
        from mtorl.experiment.experiment import ExperimentError
        from mtorl.experiment.stage_machine import OVER, Move
        from mtorl.log.touchpoints import LogError
        from mtorl.runtime.clock_jumps import ClockJumps
        from pipelines.experiments.controller import BELIEVED_AFTER, next_step, put_in_force
        from pipelines.experiments.folder import ExperimentFolder
        from pipelines.experiments.look import evidence_now

        folder = ExperimentFolder.of(file, state, dataset)
        check_router(folder)
        put_in_force(folder)  # a file that can't be used ends the command at the start, and only then
        said, jumps = "", ClockJumps(time.monotonic)
        step: Move | Hold | None
        while True:
            over, at = False, time.time()
            reached = jumps.before(at, BELIEVED_AFTER) + BELIEVED_AFTER
            try:
                step = next_step(folder, lambda served, since: evidence_now(folder, served, since), at, reached)
                now, over = _in_words(step), stands_now(folder)[1].phase in OVER
            except (ExperimentError, LogError, OSError) as error:  # each is mended while it runs, a full disk, too
                if once:
                    raise
                step, now = None, f"nothing changes: {error}"
            kind = re.sub(r"[\d.,+-]+", "", now)
            if kind != said or isinstance(step, Move):  # a figure that has grown is no news
                _tell(step, now, as_json)
                said = kind
            if once or over:
                return
            _wait(folder, every)


def _wait(folder: ExperimentFolder, seconds: float) -> None:
    """Wait for the next look; what people change in the file meanwhile, comes into force at once."""
    from mtorl.experiment.experiment import ExperimentError
    from mtorl.experiment.history import HistoryError
    from pipelines.experiments.controller import put_in_force

    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
        with suppress(ExperimentError, HistoryError, OSError):  # the next look says so
            put_in_force(folder)


def _tell(step: Move | Hold | None, words: str, as_json: bool) -> None:
    from mtorl.experiment.stage_machine import Hold, Move

    at = datetime.now(UTC)
    if not as_json:
        typer.echo(f"{at:%Y-%m-%d %H:%M:%S}  {words}")
        return
    said = {
        "at": at.isoformat(timespec="seconds"),
        "to": step.to if isinstance(step, Move) else None,
        "reason": step.reason if isinstance(step, Move) else None,
        "waits": list(step.reasons) if isinstance(step, Hold) else [],
        "problem": words if step is None else None,
    }
    typer.echo(json.dumps(said, ensure_ascii=False))


def _in_words(step: Move | Hold) -> str:
    from mtorl.experiment.stage_machine import Move

    return f"{step.to}: {step.reason}" if isinstance(step, Move) else f"waits: {'; '.join(step.reasons)}"
