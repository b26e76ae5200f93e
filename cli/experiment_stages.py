"""What people do to an experiment that goes through stages: start it, move it, switch it off, end it.

The file belongs to them; the history of what has happened, and what is in force, lie in the folder of its state, where
`mtorl serve` keeps its own: first-day.yaml and first-day/.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.endings import exit_codes, naming_the_manual, stop
from cli.experiment import JsonOption, input_errors, print_json
from cli.experiment_log import app

if TYPE_CHECKING:
    from mtorl.experiment.experiment import Experiment
    from mtorl.experiment.history import Promoted
    from mtorl.experiment.stage_machine import Evidence, State
    from pipelines.experiments.folder import ExperimentFolder

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file.")]
StateOption = Annotated[
    Path | None, typer.Option(help="Folder of its state; by default that file without its suffix, as of mtorl serve.")
]
ReasonOption = Annotated[str, typer.Option(help="Why, for the history.")]
ChallengerOption = Annotated[str, typer.Option(help="Which challenger; empty: the only one.")]


@app.command()
def start(
    file: FileArgument,
    state: StateOption = None,
    reason: ReasonOption = "started",
    as_json: JsonOption = False,
) -> None:
    """Begin with the first stage of the ramp.

        mtorl experiment start first-day.yaml

    From then on `mtorl experiment run` takes it from stage to stage. What says whom is measured, on what and how surely
    may not change any more: another try is a new salt.
    """
    with _changing(file, state) as folder:
        from mtorl.experiment.stage_machine import OVER

        experiment, stands = stands_now(folder)
        if experiment.ramp is None:
            stop(f"{file}: it has no ramp; give it one, or set its stage by hand (docs/experiments.md)", 2)
        if stands.phase != "draft":
            on = "a new salt begins another try"
            if stands.phase not in OVER:
                on = f"`ramp --to` moves it, and {on}"
            stop(f"{file}: it has begun: {stands.phase}; {on}", 2)
        _act(folder, "move", reason, as_json, to=experiment.ramp.stages[0].stage)


@app.command()
def ramp(
    file: FileArgument,
    to: Annotated[Literal["shadow", "1%", "5%", "25%", "50%"], typer.Option(help="The stage.")],
    state: StateOption = None,
    reason: ReasonOption = "moved by hand",
    as_json: JsonOption = False,
) -> None:
    """Move it to another stage by hand, on or back.

        mtorl experiment ramp first-day.yaml --to 5% --reason "the weekend is over"

    From a stage that the ramp leaves out, only a person moves it on.
    """
    with _changing(file, state) as folder:
        _act(folder, "move", reason, as_json, to=to)


@app.command()
def kill(
    file: FileArgument,
    state: StateOption = None,
    reason: ReasonOption = "kill switch",
    as_json: JsonOption = False,
) -> None:
    """Pull the kill switch: everybody gets the incumbent, in force within five seconds.

        mtorl experiment kill first-day.yaml --reason "clicks are gone"

    It works while the file is broken, too. `mtorl experiment resume` goes on where it was.
    """
    with _changing(file, state) as folder:
        _act(folder, "kill", reason, as_json)


@app.command()
def resume(
    file: FileArgument,
    state: StateOption = None,
    reason: ReasonOption = "resumed",
    as_json: JsonOption = False,
) -> None:
    """Turn the kill switch off again: it goes on at its stage, whose time begins anew.

        mtorl experiment resume first-day.yaml

    What was decided before still counts in the verdict.
    """
    with _changing(file, state) as folder:
        _act(folder, "resume", reason, as_json)


@app.command("stop")
def stop_(
    file: FileArgument,
    state: StateOption = None,
    reason: ReasonOption = "stopped by hand",
    as_json: JsonOption = False,
) -> None:
    """End it: everybody gets the incumbent, for good.

        mtorl experiment stop first-day.yaml --reason "the campaign is over"

    Another try needs a new salt.
    """
    with _changing(file, state) as folder:
        _act(folder, "move", reason, as_json, to="stopped")


@app.command()
def promote(
    file: FileArgument,
    challenger: ChallengerOption = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also if no decision of it is in the log, or the log can't be read.")
    ] = False,
    state: StateOption = None,
    reason: ReasonOption = "promoted by hand",
    as_json: JsonOption = False,
) -> None:
    """Make a challenger the incumbent: everybody gets what it decides. It ends the experiment.

        mtorl experiment promote first-day.yaml

    The incumbent's arm answers where the challenger did, at once. The next start of `mtorl serve` makes a model of its
    run the incumbent's own, whatever run it serves then. `mtorl experiment rollback` undoes both.

    A challenger of which nothing at all is known is refused without --force. One that has not won is promoted, and
    what its verdict is, is said.
    """
    with _changing(file, state) as folder:
        from monitoring.experiments.look import unsupported
        from mtorl.experiment.stage_machine import in_force
        from pipelines.experiments.controller import check_promotion
        from pipelines.experiments.look import known_now

        experiment, stands = stands_now(folder)
        names = [arm.name for arm in experiment.arms if arm.name != "incumbent"]
        who = challenger or (names[0] if len(names) == 1 else None)
        check_promotion(folder, who)
        assert who is not None
        known = known_now(folder, in_force(experiment, stands), stands.since or 0.0, time.time())
        missing = unsupported(known, who)
        if missing is not None and not force:
            stop(f"{file}: {missing}: nothing supports a promotion; --force promotes it all the same", 2)
        _act(folder, "move", reason, as_json, to="promoted", challenger=who, evidence=known.evidence)
        if not as_json:
            _say_doubts(folder, missing, known.evidence)


@app.command()
def rollback(
    file: FileArgument,
    state: StateOption = None,
    reason: ReasonOption = "rolled back by hand",
    as_json: JsonOption = False,
) -> None:
    """Give everybody the incumbent of before, also after a promotion. It ends the experiment.

        mtorl experiment rollback first-day.yaml --reason "support calls"

    It works while the file is broken, too.
    """
    with _changing(file, state) as folder:
        _act(folder, "move", reason, as_json, to="rolled back")


@contextmanager
def _changing(file: Path, state: Path | None) -> Iterator[ExperimentFolder]:
    with stage_errors():
        from pipelines.experiments.folder import ExperimentFolder

        folder = ExperimentFolder.of(file, state)
        check_router(folder)
        yield folder


def check_router(folder: ExperimentFolder) -> None:
    """Refuse to say that something is in force which the router does not read."""
    if not folder.router_reads_file():
        return
    stop(
        f"{folder.state}: its router was started when {folder.file.name} had no ramp, and reads that file itself: "
        "`enabled: false` there is its kill switch, `stage` its stage. To use these commands, give it a ramp and start "
        "mtorl serve again",
        2,
    )


def _act(
    folder: ExperimentFolder, kind: Literal["move", "kill", "resume"], reason: str, as_json: bool, **what: Any
) -> None:
    from mtorl.experiment.history import state_of
    from mtorl.experiment.stage_machine import STAGES, State
    from mtorl.experiment.stages import stages_before
    from pipelines.experiments.controller import act

    stands = state_of(folder.events(), folder.definition()) if kind == "move" and what.get("to") in STAGES else State()
    serving = act(folder, kind, by="person", reason=reason, at=time.time(), **what)
    if as_json:
        did = {"experiment": serving.name, "did": what.get("to") or kind}
        print_json({**did, "shares": serving.shares(), "version": serving.version})
        return
    typer.echo(f"{serving.name}: {what.get('to') or kind}: {_who_decides(serving, what)}")
    if kind == "move" and what.get("to") in STAGES and not serving.enabled:
        on = f"mtorl experiment resume {folder.file}"
        words = f"at once with {on}" if stands.killed else "at once when the file says `enabled: true`"
        typer.echo(f"it is switched off: it goes on at {what['to']} {words}")
    ramp = None if stands.phase != "draft" else serving.ramp
    if ramp is not None and (passed := stages_before(ramp, what.get("to"))):
        typer.echo(f"it leaves out {', '.join(passed)}: nobody has seen there what challengers do")
    if (stays := _earlier_promotion(folder, serving)) is not None and what.get("to") == "rolled back":
        made = stays.event
        typer.echo(
            f"what {made.challenger} of salt {made.salt!r} decides stays the incumbent: to undo that promotion, give "
            f"the file that salt again and roll it back: mtorl experiment rollback {folder.file}"
        )


def _say_doubts(folder: ExperimentFolder, missing: str | None, found: Evidence | None) -> None:
    """What speaks against a promotion."""
    if missing is None and found is not None and found.token == "ship":
        return
    said = missing or (f"its verdict is {found.token}: {found.reason}" if found is not None else "there is no verdict")
    typer.echo(f"promoted all the same: {said} (mtorl experiment rollback {folder.file} undoes it)", err=True)


def _who_decides(serving: Experiment, what: dict[str, Any]) -> str:
    """Who gets what from now on: after a promotion the incumbent's arm decides as the challenger did."""
    if what.get("to") != "promoted":
        return shares_in_words(serving.shares())
    whom = "everybody but the holdout" if serving.holdout else "everybody"
    return (
        f"{whom} gets what {what['challenger']} decides, in the arm incumbent; the next start of mtorl serve makes it "
        "the incumbent's own model"
    )


def _earlier_promotion(folder: ExperimentFolder, serving: Experiment) -> Promoted | None:
    """A promotion of another salt that is in force."""
    from mtorl.experiment.history import newest_promotion

    found = newest_promotion(folder.events())
    if found is None or found.rolled_back or found.event.salt == serving.salt:
        return None
    return found


def shares_in_words(shares: dict[str, float]) -> str:
    """Which share of the users each arm has."""
    return ", ".join(f"{arm} {share:.0%}" for arm, share in shares.items())


def stands_now(folder: ExperimentFolder) -> tuple[Experiment, State]:
    """The file, and where the experiment stands."""
    from pipelines.experiments.controller import state

    return state(folder)


@contextmanager
def stage_errors() -> Iterator[None]:
    """Turn input that can't be used, or what can't happen now, into one line and exit code 2."""
    from mtorl.experiment.history import HistoryError, IllegalEvent

    with exit_codes(unusable=(HistoryError, IllegalEvent)), input_errors(), naming_the_manual():
        yield
