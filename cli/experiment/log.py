"""Reads an experiment from a lake: before it begins, in the shadow, and as a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import messages
from cli.commands import JsonOption, print_json
from cli.endings import HARM, HELD, exit_codes, stop
from cli.experiment.shared import ByOption

if TYPE_CHECKING:
    from mtorl.evaluation.exploration_plan import ExplorationPlan
    from mtorl.evaluation.shadow import ShadowReport
    from mtorl.log.dataset import DatasetSpec


def _state_of(place: str) -> str:
    """The folder beside an experiment file, where its state is; any other place stays as it is."""
    return str(Path(place).with_suffix("")) if Path(place).is_file() else place


LogArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE|FOLDER",
        callback=_state_of,
        help="Experiment file that mtorl serve serves, or the folder of its state; or a lake, folder or URI.",
    ),
]
ExperimentOption = Annotated[
    Path | None, typer.Option(help="The experiment file. None: that of mtorl serve, if FOLDER is its state.")
]
DatasetOption = Annotated[str | None, typer.Option(help="The data set's description. None: likewise.")]


def plan(
    folder: LogArgument,
    effect: Annotated[float, typer.Option(help="Difference to find, as a share of what the arm earns.")] = 0.05,
    experiment: ExperimentOption = None,
    dataset: DatasetOption = None,
    share: Annotated[float, typer.Option(help="Of the users who get the challenger.")] = 0.5,
    users_a_day: Annotated[
        float, typer.Option(help="Users of the experiment who come on a day. 0: as many new ones as in the log.")
    ] = 0.0,
    model: Annotated[
        Path | None, typer.Option(help="Artifact folder: what exploring costs, and teaches of this policy.")
    ] = None,
    arm: Annotated[str, typer.Option(help="With --model: the arm that would explore.")] = "incumbent",
    decisions_a_day: Annotated[
        float, typer.Option(help="With --model: of the arm, to count in days. 0: count in decisions.", min=0)
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Say how many users, days and how much money it takes to find an effect, before the experiment begins.

        mtorl experiment plan first-day.yaml --effect 0.05
        mtorl experiment plan runs/latest/lake --effect 0.05 --experiment runs/latest/serving.yaml
        mtorl experiment plan first-day.yaml --model runs/latest/artifacts/challenger --decisions-a-day 50000

    The experiment is played some hundred times with the incumbent's users of the log, and with the verdict's own
    functions, until 80 of 100 played experiments find a challenger that is so much better.

    With --model: an arm that always does the same teaches nothing about anything else. The plan says what exploring a
    share of its decisions costs, and after how many decisions the log can tell such a difference of the model.
    """
    with exit_codes():
        from cli.experiment.table import print_exploration, print_plan

        inputs = _inputs(folder, experiment, dataset)
        if model is not None:
            explored = _exploration(*inputs, arm, model, effect)
            print_json(asdict(explored)) if as_json else print_exploration(explored, decisions_a_day)
            return
        found = _plan(*inputs, effect, share, users_a_day)
    print_json(found) if as_json else print_plan(found)


def _plan(lake: str, spec: DatasetSpec, file: str, effect: float, share: float, users_a_day: float) -> dict[str, Any]:
    from monitoring.decision_log import DecisionLog
    from monitoring.verdict.incumbent_users import incumbent_users
    from mtorl.experiment.experiment import Experiment
    from mtorl.experiment.inference.plan import MOST_USERS, requirements
    from mtorl.log.dataset import counted_gain
    from mtorl.log.touchpoints import LogError

    with step("add up the incumbent's users"):
        planned = Experiment.load(file)
        seen = incumbent_users(DecisionLog.of(lake), planned, counted_gain(spec))
    try:
        with step("play the experiment"):
            found = requirements(seen, planned, effect, share, users_a_day)
    except ValueError as error:
        raise LogError(str(error)) from None
    if found is None:
        stop(f"an effect of {effect:.1%} would take more than {MOST_USERS:,} users: plan with a larger one", 1)
    return found


def _exploration(lake: str, spec: DatasetSpec, file: str, arm: str, model: Path, effect: float) -> ExplorationPlan:
    from features.collect.experiment_decisions import served_decisions
    from mtorl.evaluation.exploration_plan import plan_for
    from mtorl.experiment.experiment import Experiment

    if not 0 < effect < 1:
        stop(f"--effect: expected a share above 0 and below 1, got {effect:g}", 2)
    with step("read what was decided"):
        rows = served_decisions(lake, spec, Experiment.load(file), arm)
    with step("ask the model"):
        return plan_for(rows, model, effect)


def verdict(
    folder: LogArgument,
    experiment: ExperimentOption = None,
    dataset: DatasetOption = None,
    by: ByOption = None,
    until: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Until when decisions count, and everything is known, ISO time: for traffic that has ended. Empty: "
            "the log ends with its newest decision.",
        ),
    ] = "",
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Instead, what challengers would have done in the shadow.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the verdict so far. Checking it often changes no error rate.

        mtorl experiment verdict first-day.yaml
        mtorl experiment verdict first-day.yaml --by device
        mtorl experiment verdict first-day.yaml --shadow
        mtorl experiment verdict runs/latest/lake --experiment first-day.yaml --dataset my-log.yaml

    The words and figures are explained in docs/verdict.md. Lifts by segment are no part of the verdict.
    Exit codes: 4 users are not split as configured; 5 a guardrail is breached; else 0.

    With --shadow: how often challengers agree with the incumbent is known from the first decision on. What they would
    earn is estimated from the outcomes of the incumbent's decisions, so let the incumbent explore
    (docs/experiments.md).
    """
    from monitoring.decision_log import PeriodError

    with exit_codes(PeriodError):
        from cli.experiment.table import print_shadow, print_verdict

        inputs = _inputs(folder, experiment, dataset)
        if shadow:
            reports = _shadows(*inputs, by or [])
            if as_json:
                print_json(reports)
            else:
                for report in reports.values():
                    print_shadow(report)
            return
        found = _verdict(*inputs, by or [], until)
    if as_json:
        print_json(found)
    else:
        print_verdict(found)
    if found["verdict"] in ("srm", "guardrail"):
        raise typer.Exit(HELD if found["verdict"] == "srm" else HARM)


def _verdict(lake: str, spec: DatasetSpec, file: str, by: list[str], until: str) -> dict[str, Any]:
    from monitoring.decision_log import Period
    from monitoring.verdict.period import verdict_of_period
    from mtorl.log.dataset import counted_gain
    from mtorl.log.records import segment_sql

    with step("compare the arms"):
        values = {name: segment_sql(spec, name, "record") for name in by}
        gain = counted_gain(spec)
        return verdict_of_period(lake, file, Period.of("", until), gain, weights="", budget=0.0, by=values)


def _shadows(lake: str, spec: DatasetSpec, file: str, by: list[str]) -> dict[str, ShadowReport]:
    from features.collect.experiment_decisions import shadows
    from mtorl.evaluation.shadow import shadow_report
    from mtorl.experiment.experiment import Experiment

    with step("compare what was decided"):
        return shadow_report(shadows(lake, spec, Experiment.load(file), by), spec.channels, by)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show a bar while something is done."""
    from cli.progress_bars import ProgressBars

    with ProgressBars() as bars, bars.step(title):
        yield


def _inputs(folder: str, experiment: Path | None, dataset: str | None) -> tuple[str, DatasetSpec, str]:
    """The lake, the data set's description, and the experiment file."""
    from mtorl.log.dataset import DatasetSpec
    from pipelines.experiments.evidence import lake_of

    file, spec = named(folder, "experiment", experiment), DatasetSpec.load(named(folder, "dataset", dataset))
    return lake_of(folder), spec, file


def named(folder: str, name: str, given: Path | str | None) -> str:
    """A file that the command was given, or that the router of a state reads."""
    from mtorl.log.touchpoints import LogError
    from pipelines.experiments.folder import named_by_router, read_by_router

    if given is not None:
        return str(given)
    state = Path(folder)
    found: Path | str | None
    if name == "experiment":  # of several files, the one with the state's name
        files = read_by_router(state)
        found = next((file for file in files if len(files) == 1 or file.stem == state.resolve().name), None)
    else:
        found = named_by_router(state, name)
    if found is None and not state.exists() and "://" not in folder:
        raise LogError(messages.NO_STATE(folder=folder))
    if found is None:
        raise LogError(messages.OPTION_NEEDED(option=name, folder=folder))
    return str(found)
