"""The command `mtorl experiment move`, which moves, switches or ends an experiment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.commands import JsonOption, print_json
from cli.endings import exit_codes, stop
from cli.experiment.shared import FileArgument, StateOption, check_router, shares_in_words

if TYPE_CHECKING:
    from monitoring.experiments.findings import Findings
    from mtorl.experiment.experiment import Experiment
    from mtorl.experiment.stage_machine import State
    from pipelines.experiments.folder import ExperimentFolder

To = Literal["shadow", "1%", "5%", "25%", "50%", "off", "on", "promoted", "stopped", "rolled back"]


def move(
    file: FileArgument,
    to: Annotated[To, typer.Argument(metavar="TO", help="A stage, off, on, promoted, stopped or 'rolled back'.")],
    reason: Annotated[str, typer.Option(help="Reason, recorded in the history.")] = "by hand",
    challenger: Annotated[str | None, typer.Option(help="Challenger to promote. Default: the only one.")] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Promote even if the log has no decision of the challenger or is unreadable."),
    ] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move an experiment: to a stage, off and on, or to its end.

        mtorl experiment move first-day.yaml shadow --reason "agreed on Monday"      begin with the first stage
        mtorl experiment move first-day.yaml 5%                                      to a later or an earlier stage
        mtorl experiment move first-day.yaml off --reason "clicks are gone"          kill switch: within five seconds
        mtorl experiment move first-day.yaml on                                      on again, at the same stage
        mtorl experiment move first-day.yaml promoted                                the challenger for all users
        mtorl experiment move first-day.yaml stopped                                 the incumbent, permanently
        mtorl experiment move first-day.yaml "rolled back"                           the previous incumbent

    off and "rolled back" work even if the file is invalid. After on, the time of the stage begins again, and earlier
    decisions still count in the verdict.

    promoted, stopped and "rolled back" end the experiment. To run it again, change the salt in the file. A promotion
    applies at once, and "rolled back" undoes it. A challenger that has not won is promoted with a warning, and one
    without decisions in the log only with --force.
    """
    with exit_codes():
        from mtorl.experiment.messages import NO_RAMP
        from mtorl.experiment.stage_machine import STAGES
        from mtorl.runtime.message import prefixed
        from pipelines.experiments.controller import act
        from pipelines.experiments.controller import state as state_of
        from pipelines.experiments.evidence import findings_or_problem
        from pipelines.experiments.folder import ExperimentFolder
        from pipelines.experiments.moves import MoveRequest, challenger_of, make_move
        from pipelines.messages import NOT_STARTED
        from serving.local.stack import runs

        folder, now = ExperimentFolder.of(file, state), time.time()
        check_router(folder)
        reason = reason.strip() or "by hand"
        if force and to != "promoted":
            stop("--force works only with promoted", 2)
        # Two comparisons, because mypy would not know the type of `to` after `to in (...)`.
        if to == "off" or to == "on":
            serving = act(folder, "kill" if to == "off" else "resume", by="person", reason=reason, at=now)
            _tell(to, serving, as_json)
            return
        before: State | None = None
        if to in STAGES:
            experiment, before = state_of(folder)
            if experiment.ramp is None and before.phase == "draft":
                stop(prefixed(file, NO_RAMP()), 2)
        asked = MoveRequest(to=to, reason=reason, challenger=challenger, force=force)
        serving, findings = make_move(folder, asked, now, lambda: findings_or_problem(folder, now))
        _tell(to, serving, as_json)
        if before is not None and not runs(folder.state):
            typer.echo(NOT_STARTED(state=folder.state, file=file), err=True)
        if not as_json:
            _tell_what_follows(folder, to, serving, before)
            if findings is not None:
                _tell_doubts(folder, findings, str(challenger_of(folder, asked)))


def _tell(to: To, serving: Experiment, as_json: bool) -> None:
    if as_json:
        print_json({"experiment": serving.name, "to": to, "shares": serving.shares(), "version": serving.version})
        return
    gets = shares_in_words(serving.shares())
    if to == "promoted":
        gets = (
            "all users get the challenger's decisions, in the arm incumbent; the next start of mtorl serve makes the "
            "challenger's model the incumbent's"
        )
    typer.echo(f"{serving.name}: {to}: {gets}")


def _tell_what_follows(folder: ExperimentFolder, to: To, serving: Experiment, before: State | None) -> None:
    from mtorl.experiment.history import newest_promotion
    from mtorl.experiment.stages import stages_before

    if before is not None and not serving.enabled:
        on = f"with: mtorl experiment move {folder.file} on" if before.killed else "when the file says `enabled: true`"
        typer.echo(f"the experiment is switched off: it continues at {to} at once {on}")
    ramp = serving.ramp if before is not None and before.phase == "draft" else None
    if ramp is not None and (passed := stages_before(ramp, to)):
        typer.echo(f"this skips {', '.join(passed)}: no challenger was watched there")
    if to == "rolled back" and (newest := newest_promotion(folder.events())) is not None:
        made = newest.event
        if not newest.rolled_back and made.salt != serving.salt:
            typer.echo(
                f"the promotion of {made.challenger} under salt {made.salt!r} remains. To undo it, restore that salt "
                f'in the file, then: mtorl experiment move {folder.file} "rolled back"'
            )


def _tell_doubts(folder: ExperimentFolder, findings: Findings, challenger: str) -> None:
    from monitoring.experiments.findings import unsupported

    missing, found = unsupported(findings, challenger), findings.evidence
    if missing is None and found is not None and found.token == "ship":
        return
    doubt = missing or (f"its verdict is {found.token}: {found.reason}" if found is not None else "there is no verdict")
    undo = f'mtorl experiment move {folder.file} "rolled back"'
    typer.echo(f"promoted, although {doubt} (to undo it: {undo})", err=True)
