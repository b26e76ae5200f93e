"""Writes a first experiment file, and checks an experiment file before it is served."""

from __future__ import annotations

import getpass
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands import Dataset, Explore, JsonOption, print_json
from cli.endings import exit_codes, stop
from cli.experiment.shared import FileArgument, StateOption

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

    You can use the file unchanged: the incumbent's action comes with each request, and the ramp begins in the shadow.
    An existing file is never overwritten.
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
    typer.echo(f"{file}: read its comments, then run")
    typer.echo(f"  mtorl experiment check {file} --dataset {dataset}")
    typer.echo(f"  mtorl serve --experiment {file}")
    typer.echo(f"  mtorl experiment move {file} shadow          its first stage")
    typer.echo(f"  mtorl experiment run {file}          in another terminal: runs all stages")


def check(file: FileArgument, dataset: Dataset, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Check an experiment file before it is served, and print each arm's share, policy and budget.

        mtorl experiment check first-day.yaml --dataset my-log.yaml

    If the experiment has begun, or follows a promotion, the file is checked against its history.
    docs/experiment-file.md describes every field of the file.
    """
    with exit_codes():
        from mtorl.experiment.arm import ALL_ARMS
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
            print_json(_checked(experiment))
            return
        stages = _by_stage(experiment)
        typer.echo(f"{experiment.name}, {_begins(experiment)}")
        for arm in experiment.arms:
            explored = f", {arm.explore.share:.0%} explored ({arm.explore.scope})" if arm.explore else ""
            shares = ", ".join(f"{100 * at_stage.shares()[arm.name]:.3g}%" for at_stage in stages)
            answers = arm.url or ("the action of each request" if arm.policy == "baseline" else "rows of this file")
            typer.echo(f"  {arm.name}: {shares} of the users; {answers}{explored}")
        for user, named in experiment.overrides.items():
            typer.echo(f"  {user}: override to {named}, not counted in results")
        for accounts in zip(*(at_stage.accounts() for at_stage in stages), strict=True):
            account = accounts[0]
            if account.arm != ALL_ARMS:
                asks_no_price = account.arm in [arm.name for arm in experiment.arms if arm.url is None]
                paced = "paced" if account.pacing else "first come, first served"
                paced = "not paced: its policy uses no price" if account.pacing and asks_no_price else paced
                scope = f"campaign {account.campaign}, channel {account.channel}, {account.period}"
                limits = [f"{at_stage.limit:,.2f}" for at_stage in accounts]
                said = limits[0] if len(set(limits)) == 1 else ", ".join(limits)
                typer.echo(f"  {account.arm} may spend {said} ({scope}; {paced})")
        paid = {budget.channel for budget in experiment.all_budgets}
        if "*" not in paid and (unpaid := [channel for channel in spec.channels if channel not in paid]):
            typer.echo(f"  no budget covers {', '.join(unpaid)}: nothing is shown there")


def _by_stage(experiment: Experiment) -> list[Experiment]:
    """Return the experiment at each stage of its ramp."""
    if experiment.ramp is None or not experiment.enabled:
        return [experiment]
    return [experiment.replace(stage=step.stage) for step in experiment.ramp.stages]


def _begins(experiment: Experiment) -> str:
    if not experiment.enabled:
        return "switched off"
    if experiment.ramp is None:
        return f"stage {experiment.stage}"
    stages = ", ".join(step.stage for step in experiment.ramp.stages)
    return f"a draft until it is started: all users get the incumbent. Stages after that: {stages}"


def _checked(experiment: Experiment) -> dict[str, Any]:
    """Return the fields with their defaults, and the derived shares and accounts, ready for JSON."""
    shown = ("arm", "campaign", "channel", "period", "limit")
    accounts = [
        {**{name: getattr(account, name) for name in shown}, "paced": account.pacing is not None}
        for account in experiment.accounts()
    ]
    fields = experiment.model_dump(mode="json")
    return {**fields, "version": experiment.version, "shares": experiment.shares(), "accounts": accounts}
