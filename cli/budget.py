"""The command `mtorl budget plan`, which forecasts what a budget would earn."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import CommandGroup, JsonOption, print_json
from cli.endings import exit_codes, stop
from cli.experiment.log import ExperimentOption, LogArgument, named, step

if TYPE_CHECKING:
    from pipelines.budget_plan import Planned

app = CommandGroup("Forecast what a budget would earn, and how to split it.")


@app.callback()
def group() -> None:
    """Make `plan` a subcommand.

    Without a callback, Typer merges a group with its only command, so `mtorl budget` itself would be the command.
    """


@app.command()
def plan(
    folder: LogArgument,
    model: Annotated[Path, typer.Option(help="Artifact folder of the policy that will spend the budget.")],
    budget: Annotated[float, typer.Option(help="Money for the period, in the data set's currency.")],
    days: Annotated[float, typer.Option(help="Length of the period.", min=0.04)] = 7.0,
    arm: Annotated[str, typer.Option(help="Arm whose decisions are replayed.")] = "challenger",
    experiment: ExperimentOption = None,
    start: Annotated[
        datetime | None, typer.Option(help="With --write: start of the period, UTC. Default: after the log's last day.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a copy of the experiment file with the plan's budgets.")
    ] = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with the response curve.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Forecast what a budget would earn, how to split it over campaigns and channels, and what 20 % more would add.

        mtorl budget plan first-day.yaml --model runs/latest/artifacts/challenger --budget 500 --days 7 --page plan.html
        mtorl budget plan first-day.yaml --model model --budget 500 --write next-week.yaml

    The command replays the logged journeys of users with the model, at several prices (docs/budget-plan.md). That takes
    a minute or two.
    """
    with exit_codes():
        from dataclasses import asdict

        from monitoring.budget_page import render
        from mtorl.experiment.experiment import Experiment
        from pipelines.budget_plan import plan_budget, write_budgets
        from pipelines.experiments.evidence import lake_of

        for name, path in (("write", write), ("page", page)):
            if path is not None and not path.absolute().parent.is_dir():
                stop(f"--{name}: there is no folder {path.parent}", 2)
        file = named(folder, "experiment", experiment)
        if arm not in (names := [one.name for one in Experiment.load(file).arms]):
            stop(f"--arm: {arm!r} is not one of {', '.join(names)}", 2)
        with step("replay journeys"):
            planned = plan_budget(lake_of(folder), file, model, arm, budget, days)
        if write is not None:
            write_budgets(planned, file, write, start.replace(tzinfo=UTC) if start else None)
        if page is not None:
            render(planned.plan, page, days, planned.currency, planned.gain, _based_on(planned))
    print_json(asdict(planned.plan)) if as_json else _print(planned)


def _based_on(planned: Planned) -> str:
    return f"Replayed: {planned.rows:,} decisions of {planned.users:,} users whom the model was not trained on"


def _print(planned: Planned) -> None:
    from rich.console import Console

    from cli.tables import titled

    found, unit = planned.plan, planned.currency
    points = titled(
        f"{planned.days:g} day{'s' * (planned.days != 1)}, {found.traffic.decisions:,.0f} decisions expected",
        "",
        f"spend, {unit}",
        planned.gain,
        "95 % of such periods",
        f"for one more {unit}",
    )
    named_points = [("today", found.today), ("this budget", found.chosen), ("20 % more", found.more)]
    for name, point in [*named_points, *(("", point) for point in found.curve)]:
        low, high = point.gain_ci
        gain = (f"{point.gain:,.1f}", f"{low:,.1f} to {high:,.1f}")
        points.add_row(name, f"{point.spend:,.2f}", *gain, f"{point.marginal:.3g}")
    split = titled("split", "campaign", "channel", f"today, {unit}", f"planned, {unit}", planned.gain)
    for part in found.split:
        money = (f"{part.today_spend:,.2f}", f"{part.spend:,.2f}")
        split.add_row(part.campaign, part.channel, *money, f"{part.gain:,.1f}")
    low, high = found.added_ci
    more = f"20 % more would bring {found.added:,.1f} more {planned.gain} [{low:,.1f}, {high:,.1f}] in expectation."
    left = f" {found.left_over:,.2f} {unit} would stay unspent: no exposure is worth it." if found.left_over else ""
    seen = f" Today's spend earned {found.today.gain:,.1f}. The curve predicts {found.today_planned:,.1f}."
    Console().print(points, split, f"{more}{left}{seen} {_based_on(planned)}.", highlight=False)
