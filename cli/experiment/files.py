"""The experiment file: a first one with comments, and the check of one before it is served."""

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
    name: Annotated[str, typer.Option(help="Of the experiment. Empty: that of the file.")] = "",
    owner: Annotated[str, typer.Option(help="Whom to ask. Empty: who types this.")] = "",
    endpoint: Annotated[str, typer.Option(help="Where the challenger answers.")] = "http://127.0.0.1:8085",
    amount: Annotated[float, typer.Option(help="Money of the whole experiment, currency units.")] = 1000.0,
    explore: Explore = 0.05,
) -> None:
    """Write a first experiment file, with a comment on each choice.

        mtorl experiment init first-day.yaml --dataset my-log.yaml
        mtorl experiment init first-day.yaml --dataset my-log.yaml --endpoint http://models.example.com/decide

    It can be used as it is: the incumbent is what each request says, and the ramp begins in the shadow. A file that is
    there stays as it is.
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
            stop(f"{file}: is there already, and stays as it is; name another file", 2)
    typer.echo(f"{file}: read its comments, then")
    typer.echo(f"  mtorl experiment check {file} --dataset {dataset}")
    typer.echo(f"  mtorl serve --experiment {file}")
    typer.echo(f"  mtorl experiment move {file} shadow          its first stage")
    typer.echo(f"  mtorl experiment run {file}          in another terminal: from stage to stage")


def check(file: FileArgument, dataset: Dataset, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Check an experiment file before it is served, and print each arm's share, policy and money.

        mtorl experiment check first-day.yaml --dataset my-log.yaml

    Of one that has begun, or that follows on a promotion, its history is looked at, too.

    Every field of the file is in docs/experiment-file.md.
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
            answers = arm.url or ("what each request says" if arm.policy == "baseline" else "rows of this file")
            typer.echo(f"  {arm.name}: {shares} of the users; {answers}{explored}")
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
        paid = {budget.channel for budget in experiment.all_budgets}
        if "*" not in paid and (unpaid := [channel for channel in spec.channels if channel not in paid]):
            typer.echo(f"  no budget is for {', '.join(unpaid)}: nothing is shown there")


def _by_stage(experiment: Experiment) -> list[Experiment]:
    """The experiment at each stage that its file takes it through."""
    if experiment.ramp is None or not experiment.enabled:
        return [experiment]
    return [experiment.replace(stage=step.stage) for step in experiment.ramp.stages]


def _begins(experiment: Experiment) -> str:
    """First stage of an experiment, and the ways to go on."""
    if not experiment.enabled:
        return "switched off"
    if experiment.ramp is None:
        return f"stage {experiment.stage}"
    stages = ", ".join(step.stage for step in experiment.ramp.stages)
    return f"a draft until it is started, so everybody gets the incumbent; then, stage by stage: {stages}"


def _checked(experiment: Experiment) -> dict[str, Any]:
    """The file with its defaults, and what follows from it, JSON-ready."""
    shown = ("arm", "campaign", "channel", "period", "limit")
    accounts = [
        {**{name: getattr(account, name) for name in shown}, "paced": account.pacing is not None}
        for account in experiment.accounts()
    ]
    fields = experiment.model_dump(mode="json")
    return {**fields, "version": experiment.version, "shares": experiment.shares(), "accounts": accounts}
