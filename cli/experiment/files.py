"""The commands `mtorl experiment init` and `check`, which write and check an experiment file."""

from __future__ import annotations

import getpass
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import Dataset, Explore, JsonOption, print_json
from cli.endings import exit_codes, stop
from cli.experiment.shared import FileArgument, StateOption, shares_in_words

if TYPE_CHECKING:
    from mtorl.experiment.experiment import Experiment


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file to write.")],
    dataset: Dataset,
    name: Annotated[str, typer.Option(help="Name of the experiment. Empty: the file's name.")] = "",
    owner: Annotated[str, typer.Option(help="Person to contact. Empty: the current user.")] = "",
    endpoint: Annotated[str, typer.Option(help="Endpoint of the challenger.")] = "http://127.0.0.1:8085",
    amount: Annotated[float, typer.Option(help="Budget of the whole experiment, currency units.")] = 1000.0,
    explore: Explore = 0.05,
) -> None:
    """Write a first experiment file, with a comment on each choice.

        mtorl experiment init first-day.yaml --dataset my-log.yaml
        mtorl experiment init first-day.yaml --dataset my-log.yaml --endpoint http://models.example.com/decide

    You can use the file without changes. The incumbent's action then comes with each request, and the challenger first
    decides in the shadow, where its decisions are only logged. An existing file is never overwritten.
    """
    with exit_codes():
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
            explore=explore,
        )
        try:
            with file.open("x", encoding="utf-8") as written:
                written.write(text)
        except FileExistsError:
            stop(f"{file} already exists and was not changed. Name another file", 2)
    typer.echo(
        f"{file}: read its comments. Then, in one terminal, check and serve it:\n"
        f"  mtorl experiment check {file} --dataset {dataset}\n"
        f"  mtorl serve --experiment {file}\n"
        "In a second terminal, start its first stage, and let it run through all stages:\n"
        f"  mtorl experiment move {file} shadow\n"
        f"  mtorl experiment run {file}"
    )


def check(file: FileArgument, dataset: Dataset, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Check an experiment file before it is served, and print each arm's share, policy and budget.

        mtorl experiment check first-day.yaml --dataset my-log.yaml

    If the experiment has already begun, or follows a promotion, the file must also fit its history.
    docs/experiment-file.md describes every field of the file.
    """
    with exit_codes():
        from mtorl.experiment.experiment import Experiment
        from mtorl.log.dataset import DatasetSpec
        from pipelines.experiments.controller import follows
        from pipelines.experiments.folder import ExperimentFolder

        experiment = Experiment.load(file)
        spec = DatasetSpec.load(dataset)
        experiment.check(spec)
        folder = ExperimentFolder.of(file, state)
        follows(folder.name, experiment, folder.events())
        if as_json:
            accounts = [{**one._asdict(), "pacing": one.pacing is not None} for one in experiment.accounts()]
            derived = {"version": experiment.version, "shares": experiment.shares(), "accounts": accounts}
            print_json({**experiment.model_dump(mode="json"), **derived})
            return
        begins = f"stage {experiment.stage}" if experiment.ramp is None else "a draft until you move it to a stage"
        typer.echo(f"{experiment.name}, {begins if experiment.enabled else 'switched off'}")
        for arm in experiment.arms:
            explored = f", {arm.explore.share:.0%} explored ({arm.explore.scope})" if arm.explore else ""
            answers = arm.url or ("the action of each request" if arm.policy == "baseline" else "rows of this file")
            typer.echo(f"  {arm.name}: {answers}{explored}")
        for user, named in experiment.overrides.items():
            typer.echo(f"  {user}: override to {named}, not counted in results")
        _echo_stages(experiment)
        paid = {budget.channel for budget in experiment.all_budgets}
        if "*" not in paid and (unpaid := [channel for channel in spec.channels if channel not in paid]):
            typer.echo(f"  no budget covers {', '.join(unpaid)}: nothing is shown there")


def _echo_stages(experiment: Experiment) -> None:
    from mtorl.experiment.arm import ALL_ARMS
    from serving.messages import PRICE_IGNORED

    steps = experiment.ramp.stages if experiment.ramp is not None and experiment.enabled else ()
    stages = {step.stage: experiment.replace(stage=step.stage) for step in steps} or {experiment.stage: experiment}
    typer.echo("  users:")
    for stage, at_stage in stages.items():
        typer.echo(f"    {stage}: {shares_in_words(at_stage.shares())}")
    accounts = {stage: at_stage.accounts() for stage, at_stage in stages.items()}
    for number, budget in enumerate(experiment.all_budgets):
        scope = f"campaign {budget.campaign}, channel {budget.channel}, {budget.period}"
        typer.echo(f"  budget ({scope}; {'paced' if budget.pacing else 'first come, first served'}):")
        for stage, of_stage in accounts.items():
            of_budget = of_stage[number :: len(experiment.all_budgets)]
            parts = [f"{account.arm} {account.limit:,.2f}" for account in of_budget if account.arm != ALL_ARMS]
            typer.echo(f"    {stage}: {', '.join(parts)}")
        for arm in (arm for arm in experiment.arms if budget.pacing and arm.url is None):
            typer.echo(f"    {arm.name} is not paced: {PRICE_IGNORED()}")
