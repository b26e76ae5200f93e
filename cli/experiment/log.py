"""The commands `mtorl experiment plan` and `verdict`, which analyse an experiment's log."""

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
    from mtorl.log.dataset import DatasetSpec


def _state_of(place: str) -> str:
    return str(Path(place).with_suffix("")) if Path(place).is_file() else place


LogArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE|FOLDER",
        callback=_state_of,
        help="Experiment file of mtorl serve, its state folder, or a lake (folder or URI).",
    ),
]
ExperimentOption = Annotated[
    Path | None, typer.Option(help="Experiment file. Default: that of mtorl serve, if FOLDER is its state.")
]
DatasetOption = Annotated[str | None, typer.Option(help="The data set's description. Default: that of mtorl serve.")]


def plan(
    folder: LogArgument,
    effect: Annotated[float, typer.Option(help="Difference to detect, as a share of the arm's gain.")] = 0.05,
    experiment: ExperimentOption = None,
    dataset: DatasetOption = None,
    share: Annotated[float, typer.Option(help="Share of users who get the challenger.")] = 0.5,
    users_a_day: Annotated[
        float, typer.Option(help="New users of the experiment per day. 0: as many as in the log.")
    ] = 0.0,
    model: Annotated[
        Path | None, typer.Option(help="Artifact folder: print the cost and benefit of exploration for this policy.")
    ] = None,
    arm: Annotated[str, typer.Option(help="With --model: the arm that would explore.")] = "incumbent",
    decisions_a_day: Annotated[
        float, typer.Option(help="With --model: the arm's decisions per day. 0: report decisions, not days.", min=0)
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Plan the users, days and money needed to detect an effect, before the experiment begins.

        mtorl experiment plan first-day.yaml --effect 0.05
        mtorl experiment plan runs/latest/lake --effect 0.05 --experiment runs/latest/serving.yaml
        mtorl experiment plan first-day.yaml --model runs/latest/artifacts/challenger --decisions-a-day 50000

    The command simulates the experiment some hundred times, with users from the log and the same statistics as the
    verdict. It finds the number of users with which 80 % of the simulated experiments detect the effect.

    With --model, the command plans exploration instead: decisions that are random, so that the log contains information
    about other policies. For several shares of random decisions, it prints the cost, and the number of decisions after
    which the log shows whether this model is better by the effect.
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

    with step("aggregate the incumbent's users"):
        planned = Experiment.load(file)
        seen = incumbent_users(DecisionLog.of(lake), planned, counted_gain(spec))
    try:
        with step("simulate the experiment"):
            found = requirements(seen, planned, effect, share, users_a_day)
    except ValueError as error:
        raise LogError(str(error)) from None
    if found is None:
        stop(f"an effect of {effect:.1%} needs more than {MOST_USERS:,} users: plan with a larger --effect", 1)
    return found


def _exploration(lake: str, spec: DatasetSpec, file: str, arm: str, model: Path, effect: float) -> ExplorationPlan:
    from features.collect.experiment_decisions import served_decisions
    from mtorl.evaluation.exploration_plan import plan_for
    from mtorl.experiment.experiment import Experiment

    if not 0 < effect < 1:
        stop(f"--effect: expected a share above 0 and below 1, got {effect:g}", 2)
    with step("read the decisions"):
        rows = served_decisions(lake, spec, Experiment.load(file), arm)
    with step("evaluate the model"):
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
            help="For traffic that has ended: ISO time until which decisions count. All their outcomes must be known. "
            "Empty: the time of the newest decision.",
        ),
    ] = "",
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Report the challengers' shadow decisions instead of the verdict.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the current verdict. You can do this at any time: frequent checks do not make a wrong verdict more likely.

        mtorl experiment verdict first-day.yaml
        mtorl experiment verdict first-day.yaml --by device
        mtorl experiment verdict first-day.yaml --shadow
        mtorl experiment verdict runs/latest/lake --experiment first-day.yaml --dataset my-log.yaml

    docs/verdict.md explains the output. Lifts by segment do not affect the verdict. Exit code 4: the arms have other
    shares of the users than configured. 5: a guardrail is breached. 0 otherwise.

    With --shadow, the command reports how often the challengers agree with the incumbent, from the first decision on.
    Their gain is estimated from the outcomes of the incumbent's decisions, so let the incumbent explore
    (docs/experiments.md).
    """
    from monitoring.decision_log import Period, PeriodError

    with exit_codes(PeriodError):
        from cli.experiment.table import print_shadow, print_verdict
        from monitoring.verdict.period import verdict_of_period
        from mtorl.experiment.experiment import Experiment
        from mtorl.log.dataset import counted_gain
        from mtorl.log.records import segment_sql

        lake, spec, file = _inputs(folder, experiment, dataset)
        if shadow:
            # The image of routers does not contain the packages that these imports need.
            from features.collect.experiment_decisions import shadows
            from mtorl.evaluation.shadow import shadow_report

            with step("compare the decisions"):
                rows = shadows(lake, spec, Experiment.load(file), by or [])
                reports = shadow_report(rows, spec.channels, by or [])
            if as_json:
                print_json(reports)
            else:
                for report in reports.values():
                    print_shadow(report)
            return
        with step("compare the arms"):
            values = {name: segment_sql(spec, name, "record") for name in by or ()}
            period = Period.of("", until)
            found = verdict_of_period(lake, file, period, counted_gain(spec), weights="", budget=0.0, by=values)
    if as_json:
        print_json(found)
    else:
        print_verdict(found)
    if found["verdict"] in ("srm", "guardrail"):
        raise typer.Exit(HELD if found["verdict"] == "srm" else HARM)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show a progress bar with this title while the block runs."""
    from cli.progress_bars import ProgressBars

    with ProgressBars() as bars, bars.step(title):
        yield


def _inputs(folder: str, experiment: Path | None, dataset: str | None) -> tuple[str, DatasetSpec, str]:
    from mtorl.log.dataset import DatasetSpec
    from pipelines.experiments.evidence import lake_of

    file, spec = named(folder, "experiment", experiment), DatasetSpec.load(named(folder, "dataset", dataset))
    return lake_of(folder), spec, file


def named(folder: str, name: str, given: Path | str | None) -> str:
    """Return the given experiment file or data set or, by default, the router's.

    Args:
        name: "experiment", or the name of a router setting, such as "dataset".

    Raises:
        LogError: Nothing is given, and the router's state folder does not name a file.
    """
    from mtorl.log.touchpoints import LogError
    from pipelines.experiments.folder import named_by_router, read_by_router

    if given is not None:
        return str(given)
    state = Path(folder)
    found: Path | str | None
    # Of several experiment files, use the one that has the same name as the state folder.
    if name == "experiment":
        files = read_by_router(state)
        found = next((file for file in files if len(files) == 1 or file.stem == state.resolve().name), None)
    else:
        found = named_by_router(state, name)
    if found is None and not state.exists() and "://" not in folder:
        raise LogError(messages.NO_STATE(folder=folder))
    if found is None:
        raise LogError(messages.OPTION_NEEDED(option=name, folder=folder))
    return str(found)
