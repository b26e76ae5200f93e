"""What a decision log says of an experiment: before it begins, in the shadow, and as a verdict."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.endings import HARM, HELD, exit_codes, stop
from cli.experiment import JsonOption, app, input_errors, print_json

__all__ = ["app"]


def _state_of(path: Path) -> Path:
    """The folder beside an experiment file, where its state is; any other path stays as it is."""
    return path.with_suffix("") if path.is_file() else path


DecisionLogArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE|FOLDER",
        callback=_state_of,
        help="Experiment file that mtorl serve serves, or the folder of its state; or a decision log that was exported "
        "or shipped.",
    ),
]
ExperimentOption = Annotated[
    Path | None, typer.Option(help="The experiment file. None: that of mtorl serve, if FOLDER is its state.")
]
DatasetOption = Annotated[str | None, typer.Option(help="The data set's description. None: likewise.")]
ByOption = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="Also by segment, of this column; may be repeated.")
]
UntilOption = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        help="Until when decisions count, and everything is known, ISO time: for traffic that has ended. Empty: "
        "the log ends with its newest decision.",
    ),
]


@app.command()
def shadow(
    folder: DecisionLogArgument,
    experiment: ExperimentOption = None,
    dataset: DatasetOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what challengers would have done in the shadow with what the incumbent did.

        mtorl experiment shadow first-day --by device
        mtorl experiment shadow decision_log --experiment first-day.yaml --dataset my-log.yaml

    How often they agree is known from the first decision on. What a challenger would earn is estimated from what came
    of the incumbent's decisions, as far as these could have been the challenger's: an incumbent that always does the
    same says nothing about anything else, so let it explore (docs/experiments.md).
    """
    with input_errors():
        from cli.progress_bars import ProgressBars
        from cli.tables import print_shadow
        from features.collect.shadows import shadows
        from mtorl.evaluation.shadow import shadow_report
        from mtorl.experiment.experiment import Experiment
        from mtorl.log.dataset import DatasetSpec
        from pipelines.experiments.state_log import readable_log

        file, spec = _named(folder, "experiment", experiment), DatasetSpec.load(_named(folder, "dataset", dataset))
        segments = by or []
        with ProgressBars() as bars, bars.step("compare what was decided"), readable_log(folder) as log:
            rows = shadows(log, spec, Experiment.load(file), segments)
            reports = shadow_report(rows, spec.channels, segments)
    if as_json:
        print_json(reports)
        return
    for report in reports.values():
        print_shadow(report)


@app.command()
def exploration(
    folder: DecisionLogArgument,
    model: Annotated[Path, typer.Option(help="Artifact folder of the policy that is to be valued on the log.")],
    experiment: ExperimentOption = None,
    dataset: DatasetOption = None,
    arm: Annotated[str, typer.Option(help="Whose decisions: the arm that would explore.")] = "incumbent",
    lift: Annotated[
        float, typer.Option(help="The difference that shall be told, as a share of what the arm earns.")
    ] = 0.05,
    decisions_a_day: Annotated[float, typer.Option(help="Of the arm, to count in days. 0: count in decisions.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Say what the log can tell of a model, and what a share of exploration would cost and buy.

        mtorl experiment exploration first-day --model runs/latest/artifacts/challenger --decisions-a-day 50000

    An arm that always does the same teaches nothing about anything else. Exploring a share of its decisions does, and
    costs what the arm would have earned instead. Figures of what an arm explores already are those of more of it.
    """
    with input_errors():
        from cli.progress_bars import ProgressBars
        from cli.tables import print_exploration
        from features.collect.served import served_decisions
        from mtorl.evaluation.exploration_plan import plan_for
        from mtorl.experiment.experiment import Experiment
        from mtorl.log.dataset import DatasetSpec
        from pipelines.experiments.state_log import readable_log

        if not 0 < lift < 1:
            stop(f"--lift: expected a share above 0 and below 1, got {lift:g}", 2)
        if decisions_a_day < 0:
            stop(f"--decisions-a-day: must not be negative, got {decisions_a_day:g}", 2)
        file, spec = _named(folder, "experiment", experiment), DatasetSpec.load(_named(folder, "dataset", dataset))
        with ProgressBars() as bars, bars.step("read what was decided"), readable_log(folder) as log:
            rows = served_decisions(log, spec, Experiment.load(file), arm)
        with ProgressBars() as bars, bars.step("ask the model"):
            plan = plan_for(rows, model, lift)
    if as_json:
        print_json(asdict(plan))
        return
    print_exploration(plan, decisions_a_day)


@app.command()
def plan(
    folder: DecisionLogArgument,
    effect: Annotated[float, typer.Option(help="What shall be found: by which share the challenger earns more.")],
    experiment: ExperimentOption = None,
    dataset: DatasetOption = None,
    share: Annotated[float, typer.Option(help="Of the users who get the challenger.")] = 0.5,
    users_a_day: Annotated[
        float, typer.Option(help="Users of the experiment who come on a day. 0: as many new ones as in the log.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Say how many users, days and how much money it takes to find an effect, before the experiment begins.

        mtorl experiment plan first-day --effect 0.05
        mtorl experiment plan decision_log --effect 0.05 --experiment first-day.yaml --dataset my-log.yaml

    The experiment is played some hundred times with the incumbent's users of the log, and with the verdict's own
    functions: after how many users is it said in 80 of 100 that a challenger is better that is so much better?
    """
    with input_errors():
        from cli.progress_bars import ProgressBars
        from cli.tables import print_plan
        from monitoring.decision_log import DecisionLog
        from monitoring.verdict.incumbent_users import incumbent_users, plan_with
        from mtorl.experiment.experiment import Experiment
        from mtorl.experiment.inference.plan import MOST_USERS
        from mtorl.log.dataset import DatasetSpec
        from mtorl.log.touchpoints import LogError
        from mtorl.log.units import counted_gain
        from pipelines.experiments.state_log import readable_log

        spec = Experiment.load(_named(folder, "experiment", experiment))
        gain = counted_gain(DatasetSpec.load(_named(folder, "dataset", dataset)))
        with ProgressBars() as bars, bars.step("add up the incumbent's users"), readable_log(folder) as log:
            seen = incumbent_users(DecisionLog.in_folder(log), spec, gain)
        try:
            with ProgressBars() as bars, bars.step("play the experiment"):
                found = plan_with(seen, spec, effect, share, users_a_day)
        except ValueError as error:
            raise LogError(str(error)) from None
    if found is None:
        stop(f"an effect of {effect:.1%} would take more than {MOST_USERS:,} users: plan with a larger one", 1)
    if as_json:
        print_json(found)
        return
    print_plan(found)


@app.command()
def verdict(
    folder: DecisionLogArgument,
    experiment: ExperimentOption = None,
    dataset: DatasetOption = None,
    by: ByOption = None,
    until: UntilOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say what the experiment has found so far. Looking often changes no error rate.

        mtorl experiment verdict first-day.yaml
        mtorl experiment verdict first-day.yaml --by device
        mtorl experiment verdict decision_log --experiment first-day.yaml --dataset my-log.yaml

    The words and figures are explained in monitoring/README.md. Lifts by segment are no part of the verdict.
    Exit codes: 4 users are not split as configured; 5 a guardrail is breached; else 0.
    """
    from monitoring.verdict.period import PeriodError

    with exit_codes(failed=(PeriodError,)), input_errors():
        from cli.progress_bars import ProgressBars
        from cli.tables import print_verdict
        from monitoring.verdict.period import period_of, verdict_of_period
        from mtorl.log.dataset import DatasetSpec
        from mtorl.log.segments import check_segment, segment_sql
        from mtorl.log.units import counted_gain
        from pipelines.experiments.state_log import readable_log

        file, spec = _named(folder, "experiment", experiment), DatasetSpec.load(_named(folder, "dataset", dataset))
        segments = by or []
        for name in segments:
            check_segment(spec, name)
        period = period_of("", until)
        with ProgressBars() as bars, bars.step("compare the arms"), readable_log(folder) as log:
            values = {name: segment_sql(spec, name, "record") for name in segments}
            found = verdict_of_period(str(log), file, period, counted_gain(spec), weights="", budget=0.0, by=values)
    if as_json:
        print_json(found)
    else:
        print_verdict(found)
    if found["verdict"] in ("srm", "guardrail"):
        raise typer.Exit(HELD if found["verdict"] == "srm" else HARM)


def _named(folder: Path, name: str, given: Path | str | None) -> str:
    """A file that the command was given, or that the router of a state reads."""
    from mtorl.log.touchpoints import LogError
    from pipelines.experiments.folder import named_by_router, served_by_router

    if given is not None:
        return str(given)
    found = served_by_router(folder) if name == "experiment" else named_by_router(folder, name)
    if found is None and not folder.exists():
        raise LogError(f"{folder}: no such folder; mtorl serve keeps the state of {folder}.yaml there")
    if found is None:
        raise LogError(f"--{name}: name the file; only a folder that mtorl serve keeps its state in says it itself")
    return str(found)
