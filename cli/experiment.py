"""An experiment: its file, what its challengers would do, and what came of it.

    mtorl experiment init first-day.yaml --dataset my-log.yaml
    mtorl experiment check first-day.yaml --dataset my-log.yaml
    mtorl serve --experiment first-day.yaml                  keeps its state in first-day/
    mtorl experiment shadow first-day --by device
    mtorl experiment exploration first-day --model runs/latest/artifacts/challenger
    mtorl experiment plan first-day --effect 0.05
    mtorl experiment start first-day.yaml                    through its stages: run, ramp, kill, promote ...
    mtorl experiment watch first-day.yaml                    what is known, in the terminal; report and web as a page
    mtorl experiment verdict first-day

docs/first-day.md and docs/experiments.md go through all of them. With --json, each prints JSON alone.
"""

from __future__ import annotations

import getpass
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands import CommandGroup, Dataset
from cli.endings import HARM, HELD, exit_codes, naming_the_manual, stop

if TYPE_CHECKING:
    from mtorl.experiment.arm import Arm
    from mtorl.experiment.experiment import Experiment

app = CommandGroup(__doc__ or "")

DecisionLogArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="State of mtorl serve, also while it runs, or a decision log that was exported or shipped.",
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
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, with all figures, in place of words.")]


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file to write.")],
    dataset: Dataset,
    name: Annotated[str, typer.Option(help="Of the experiment. Empty: that of the file.")] = "",
    owner: Annotated[str, typer.Option(help="Whom to ask. Empty: who types this.")] = "",
    endpoint: Annotated[str, typer.Option(help="Where the challenger answers.")] = "http://127.0.0.1:8085",
    amount: Annotated[float, typer.Option(help="Money of the whole experiment, currency units.")] = 1000.0,
) -> None:
    """Write a first experiment file, with comments that say what to decide.

        mtorl experiment init first-day.yaml --dataset my-log.yaml
        mtorl experiment init first-day.yaml --dataset my-log.yaml --endpoint http://models.example.com/decide

    It can be used as it is: the incumbent is what each request says, and the ramp begins in the shadow. A file that is
    there stays as it is.
    """
    with input_errors():
        from mtorl.experiment.first_file import first_file
        from mtorl.log.dataset import DatasetSpec

        text = first_file(
            DatasetSpec.load(dataset),
            name=name or file.stem,
            salt=f"{datetime.now(UTC):%Y-%m}-{secrets.token_hex(4)}",
            owner=owner or getpass.getuser(),
            described=dataset,
            endpoint=endpoint,
            amount=amount,
        )
        try:
            with file.open("x", encoding="utf-8") as written:
                written.write(text)
        except FileExistsError:
            stop(f"{file}: is there already, and stays as it is; name another file", 2)
    typer.echo(f"{file}: read its comments, then")
    typer.echo(f"  mtorl experiment check {file} --dataset {dataset}")
    typer.echo(f"  mtorl serve --experiment {file}")
    typer.echo(f"  mtorl experiment start {file}")
    typer.echo(f"  mtorl experiment run {file}          beside mtorl serve: from stage to stage")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file.")],
    dataset: Dataset,
    state: Annotated[
        Path | None, typer.Option(help="Folder of its state; by default that file without its suffix.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check an experiment file before anybody serves it, and say who would get what.

        mtorl experiment check first-day.yaml --dataset my-log.yaml

    Of one that has begun, or that follows on a promotion, its history is looked at, too.

    Every field of the file is in docs/experiment-file.md.
    """
    with input_errors():
        from mtorl.experiment.arm import ALL_ARMS
        from mtorl.experiment.experiment import Experiment
        from mtorl.log.dataset import DatasetSpec

        with naming_the_manual():
            experiment = Experiment.load(file)
            experiment.check_written()
            spec = DatasetSpec.load(dataset)
            experiment.check(spec)
            check_history(file, state, experiment)
        if as_json:
            print_json(_checked(experiment))
            return
        stages = _by_stage(experiment)
        typer.echo(f"{experiment.name}, {_begins(experiment)}")
        for arm in experiment.arms:
            explored = f", {arm.explore.share:.0%} explored ({arm.explore.scope})" if arm.explore else ""
            shares = ", ".join(f"{100 * at_stage.shares()[arm.name]:.3g}%" for at_stage in stages)
            typer.echo(f"  {arm.name}: {shares} of the users; {_answers(arm)}{explored}")
        if experiment.holdout:
            typer.echo(
                f"  holdout: {experiment.holdout:.3g} of the users, in no arm; they keep the incumbent of before"
            )
        for user, named in experiment.overrides.items():
            typer.echo(f"  {user}: {named}, as the file says; counts nowhere")
        for accounts in zip(*(at_stage.accounts() for at_stage in stages), strict=True):
            account = accounts[0]
            if account.arm != ALL_ARMS:
                asks_no_price = account.arm in [arm.name for arm in experiment.arms if arm.url is None]
                paced = "paced" if account.pacing else "first come, first served"
                paced = "not paced: it looks at no price" if account.pacing and asks_no_price else paced
                scope = f"campaign {account.campaign}, channel {account.channel}, {account.period}"
                limits = [f"{at_stage.limit:,.2f}" for at_stage in accounts]
                said = limits[0] if len(set(limits)) == 1 else ", ".join(limits)
                typer.echo(f"  {account.arm} may spend {said} ({scope}; {paced})")
        paid = {budget.channel for budget in experiment.budgets}
        if "*" not in paid and (unpaid := [channel for channel in spec.channels if channel not in paid]):
            typer.echo(f"  no budget is for {', '.join(unpaid)}: nothing is shown there")


def check_history(file: Path, state: Path | None, experiment: Experiment) -> None:
    """Whether a file can follow on what has happened to its experiment, and to those before it."""
    from mtorl.experiment.experiment import ExperimentError
    from mtorl.experiment.history import HistoryError
    from pipelines.experiments.controller import follows
    from pipelines.experiments.folder import ExperimentFolder

    folder = ExperimentFolder.of(file, state)
    try:
        follows(folder.name, experiment, folder.events())
    except HistoryError as error:
        raise ExperimentError(str(error)) from None


def _by_stage(experiment: Experiment) -> list[Experiment]:
    """The experiment at each stage that its file takes it through."""
    if experiment.ramp is None or not experiment.enabled:
        return [experiment]
    return [experiment.replace(stage=step.stage) for step in experiment.ramp.stages]


def _begins(experiment: Experiment) -> str:
    """Where an experiment begins, and how it goes on."""
    if not experiment.enabled:
        return "switched off"
    if experiment.ramp is None:
        return f"stage {experiment.stage}"
    stages = ", ".join(step.stage for step in experiment.ramp.stages)
    return f"a draft until it is started, so everybody gets the incumbent; then, stage by stage: {stages}"


def _checked(experiment: Experiment) -> dict[str, Any]:
    """What `check` says, JSON-ready."""
    shares = experiment.shares()
    return {
        "experiment": experiment.name,
        "version": experiment.version,
        "enabled": experiment.enabled,
        "stage": experiment.stage if experiment.ramp is None else "draft",
        "ramp": [] if experiment.ramp is None else [step.stage for step in experiment.ramp.stages],
        "arms": [
            {
                "name": arm.name,
                "share": shares[arm.name],
                "answers": _answers(arm),
                "explore": None if arm.explore is None else arm.explore.model_dump(mode="json"),
            }
            for arm in experiment.arms
        ],
        "overrides": experiment.overrides,
        "holdout": experiment.holdout,
        "accounts": [
            {
                "arm": account.arm,
                "campaign": account.campaign,
                "channel": account.channel,
                "period": account.period,
                "limit": account.limit,
                "paced": account.pacing is not None,
            }
            for account in experiment.accounts()
        ],
    }


def _answers(arm: Arm) -> str:
    return arm.url or ("what each request says" if arm.policy == "baseline" else "rows of this file")


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
        from monitoring.incumbent_users import incumbent_users, plan_with
        from mtorl.experiment.experiment import Experiment
        from mtorl.experiment.plan import MOST_USERS
        from mtorl.log.dataset import DatasetSpec
        from mtorl.log.touchpoints import LogError
        from pipelines.experiments.state_log import readable_log

        spec = Experiment.load(_named(folder, "experiment", experiment))
        gain = DatasetSpec.load(_named(folder, "dataset", dataset)).reward.gain
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

        mtorl experiment verdict first-day
        mtorl experiment verdict first-day --by device
        mtorl experiment verdict decision_log --experiment first-day.yaml --dataset my-log.yaml

    The words and figures are explained in monitoring/README.md. Lifts by segment are no part of the verdict.
    Exit codes: 4 users are not split as configured; 5 a guardrail is breached; else 0.
    """
    from monitoring.period import PeriodError

    with exit_codes(failed=(PeriodError,)), input_errors():
        from cli.progress_bars import ProgressBars
        from cli.tables import print_verdict
        from monitoring.period import period_of, verdict_of_period
        from mtorl.log.dataset import DatasetSpec
        from mtorl.log.segments import check_segment, segment_sql
        from pipelines.experiments.state_log import readable_log

        file, spec = _named(folder, "experiment", experiment), DatasetSpec.load(_named(folder, "dataset", dataset))
        segments = by or []
        for name in segments:
            check_segment(spec, name)
        period = period_of("", until, hours=0)
        with ProgressBars() as bars, bars.step("compare the arms"), readable_log(folder) as log:
            values = {name: segment_sql(spec, name, "record") for name in segments}
            found = verdict_of_period(str(log), file, period, spec.reward.gain.text, weights="", budget=0.0, by=values)
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
    if found is None and folder.is_file():
        raise LogError(f"{folder} is a file; give the folder with the decision log, such as {folder.with_suffix('')}")
    if found is None:
        raise LogError(f"--{name}: name the file; only a folder that mtorl serve keeps its state in says it itself")
    return str(found)


@contextmanager
def input_errors() -> Iterator[None]:
    """Turn input that can't be used into one line and exit code 2."""
    from mtorl.artifact.artifact import ArtifactError
    from mtorl.experiment.experiment import ExperimentError
    from mtorl.log.columns import WindowError
    from mtorl.log.dataset import SpecError
    from mtorl.log.touchpoints import LogError

    with exit_codes(unusable=(ArtifactError, ExperimentError, SpecError, LogError, WindowError, OSError)):
        yield


def print_json(found: Any) -> None:
    """Print something as JSON, and nothing else: `--json > file` keeps it."""
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
