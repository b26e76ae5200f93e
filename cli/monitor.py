"""Monitor decisions and outcomes, on a laptop and on a cluster.

    mtorl monitor check --lake runs/latest/lake --registry runs/latest/registry
    mtorl monitor status                                # print the findings of the last check
    mtorl monitor export --port 9102                    # serve them to Prometheus
    mtorl monitor accept outcomes/cost_per_exposure --reason "new contract"

A check judges each completed day once, and reports at once if a column has lost its values. Findings that reduce gain
or cost money are separate from drift without harm (docs/monitoring.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cli.commands import CommandGroup, Dataset
from cli.endings import HARM, exit_codes, stop

if TYPE_CHECKING:
    from monitoring.pipeline_runs import PipelineRun
    from monitoring.watch.state import State

app = CommandGroup(__doc__ or "")

DRIFT, NOT_JUDGED = 3, 6

_SAID = {  # the worst kind first
    "harm": ("HARM", "bold red", "MtorlHarm"),
    "data_quality": ("BROKEN", "bold red", "MtorlDataBroken"),
    "drift": ("moved", "yellow", "MtorlDrift"),
}

_RUNBOOKS = "https://github.com/mtorl-kubeflow/mtorl-kubeflow/blob/main/docs/runbooks"
_NO_FAULT = {"learning": "learning", "nothing_there": "no need", "closed": "closed"}

StateFolder = Annotated[Path, typer.Option("--state", help="Folder of the monitor's state and pages.")]
_STATE = Path("monitor")


@app.command()
def check(
    lake: Annotated[str, typer.Option(help="Folder or URI of the lake to which routers upload their logs.")],
    dataset: Dataset = "simulator",
    registry: Annotated[
        Path | None, typer.Option(help="Registry with the models' training samples. Empty: columns are not judged.")
    ] = None,
    artifact: Annotated[Path | None, typer.Option(help="Artifact of the model to use instead of --registry.")] = None,
    state: StateFolder = _STATE,
    hours: Annotated[
        int, typer.Option(help="Period length. Use whole days, or the time of day looks like drift.", min=1, max=8784)
    ] = 24,
    job: Annotated[bool, typer.Option("--job", help="Exit with 0 after any finding, for scheduled jobs.")] = False,
) -> None:
    """Judge every completed period that was not judged before, by default each day.

    Exit code 0: nothing is wrong. 3: drift without harm (a ticket). 5: gain or money is lost, or a column has no
    values. 6: something could not be judged, and the output gives the reason. On the first days, the monitor only
    learns expected values; this is no failure. With --job, the code is 0 in all of these cases.

        mtorl monitor check --lake runs/latest/lake --artifact runs/latest/artifacts/challenger
    """
    from monitoring.watch.check import Watched, run
    from monitoring.watch.state import BusyError
    from monitoring.watch.training_sample import sample_of_artifact
    from mtorl.log.dataset import DatasetSpec
    from mtorl.log.lake import Lake
    from serving.registry import newest

    if 24 % hours and hours % 24:
        stop(f"--hours: {hours} neither divides a day nor is a number of whole days. Use 6, 24 or 168, for example", 2)
    with exit_codes(BusyError, OSError):
        spec = DatasetSpec.load(dataset)
        watched = Watched(
            Lake.open(lake),
            spec,
            sample_of_artifact(_finder(registry, artifact)),
            hours,
            newest_model=lambda: None if registry is None else newest(registry),
        )
        found = run(watched, state, datetime.now(UTC), _progress)
    _show(found, state)
    raise typer.Exit(0 if job else exit_code(found))


@app.command()
def status(
    state: StateFolder = _STATE,
    json: Annotated[bool, typer.Option("--json", help="Print the state file.")] = False,
) -> None:
    """Print the findings of the last check: faults, their cost, next steps, and whether a training is due.

    The exit codes are those of `check`, and 2 if the folder has no state. Failed pipeline runs are shown as well if
    there is a folder `runs` next to the state folder.

        mtorl monitor status --state volume/monitor
    """
    from monitoring.messages import NO_CHECK
    from monitoring.pipeline_runs import newest_runs
    from monitoring.watch.state import STATE_FILE, State

    with exit_codes():
        found = State.read(state / STATE_FILE)
    if not json:
        _show_failed(newest_runs(state.absolute().parent / "runs"))
    if found.checked is None:
        stop(NO_CHECK(state=state), 2)
    if json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        _show(found, state)
    raise typer.Exit(exit_code(found))


@app.command()
def export(
    state: StateFolder = _STATE,
    runs: Annotated[
        Path | None, typer.Option(help="Folder with the newest run of each pipeline. Empty: no metrics of runs.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of /metrics.", min=1, max=65535)] = 9102,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
) -> None:
    """Serve the result of the last check, and its age, as metrics for Prometheus.

        mtorl monitor export --state volume/monitor --runs volume/runs --port 9102

    The state file is read again for each request.
    """
    from monitoring.watch.exporter import MonitorCollector, RunsCollector, serve
    from monitoring.watch.state import STATE_FILE

    of_runs = [] if runs is None else [RunsCollector(runs)]
    with exit_codes(), suppress(KeyboardInterrupt):
        serve(host, port, MonitorCollector(state / STATE_FILE), *of_runs)


@app.command()
def accept(
    streams: Annotated[list[str], typer.Argument(metavar="STREAM...", help="Names from `mtorl monitor status`.")],
    reason: Annotated[str, typer.Option(help="Why the new value is expected from now on.")],
    state: StateFolder = _STATE,
) -> None:
    """Accept a measure's current value as healthy: its alarm stops, and the monitor learns a new expected value.

        mtorl monitor accept outcomes/cost_per_exposure --reason "new contract with the publisher since Monday"

    Columns can't be accepted, because they are compared with the training sample of the model, which changes only with
    the model.
    """
    from monitoring.watch.state import STATE_FILE, BusyError, State, alone

    with exit_codes(BusyError, OSError), alone(state):
        found = State.read(state / STATE_FILE)
        if not reason.strip():
            stop("--reason: explain to later readers why the new value is expected from now on", 2)
        for name in streams:
            found.accept(name, reason, datetime.now(UTC))
        found.write(state / STATE_FILE)
    typer.echo(f"accepted: {', '.join(streams)}. The monitor now learns new expected values")


def exit_code(found: State) -> int:
    """Return the exit code that belongs to the result of a check."""
    return {"fine": 0, "moved": DRIFT, "harm": HARM, "not judged": NOT_JUDGED}[found.word]


def _finder(registry: Path | None, artifact: Path | None) -> Callable[[str | None], Path | None]:
    from serving.registry import folder_of

    if artifact is not None:
        return lambda _: artifact
    return partial(folder_of, registry) if registry is not None else lambda _: None


def _progress(end: datetime, left: int) -> None:
    typer.echo(f"judging the period until {end:%Y-%m-%d %H:%M}, {left} to go", err=True)


def _show(state: State, folder: Path) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    alarms = sorted(state.alarms().items(), key=lambda item: ([*_SAID].index(item[1].kind), item[0]))
    if not alarms:
        judged = any(group.not_judged is None for group in state.groups.values())
        console.print("nothing is wrong in what was judged" if judged else "nothing could be judged yet")
    for name, alarm in alarms:
        word, style, _ = _SAID[alarm.kind]
        since = f" {name} since {alarm.since:%Y-%m-%d %H:%M} UTC: {alarm.text}"
        console.print(Text.assemble((f"{word:6}", style), since))
    if sum(alarm.kind == "harm" for _, alarm in alarms) > 1:
        console.print("two measures may be two views of one loss: do not add them up")
    # Print only the runbook of the first and worst alarm, which also covers the others.
    if alarms:
        console.print(f"what to do: {_RUNBOOKS}/{_SAID[alarms[0][1].kind][2]}.md")
    if state.retrain is not None:
        console.print(f"a training is due since {state.retrain.since:%Y-%m-%d}: {state.retrain.reason}")
    counts = (Column(name, justify="right") for name in ("decisions", "users"))
    table = Table("group", "period until, UTC", *counts, "judged", box=None, pad_edge=False)
    for name, group in state.groups.items():
        until = f"{group.end:%Y-%m-%d %H:%M}" if group.end else "-"
        why = group.not_judged
        result = "yes" if why is None else f"{_NO_FAULT.get(why.reason, 'NO')}: {why.text}"
        table.add_row(name, until, f"{group.decisions:,}", f"{group.users:,}", result)
    console.print(table)
    if state.checked is not None:
        hours = (datetime.now(UTC) - state.checked).total_seconds() / 3600
        console.print(f"last check: {state.checked:%Y-%m-%d %H:%M} UTC, {hours:,.1f} hours ago")
    for page in sorted((folder / "periods").rglob("drift.html"))[-2:]:
        console.print(f"columns compared with the training sample: {page}")


def _show_failed(runs: Sequence[PipelineRun]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    failed = [run for run in runs if run.failed_in_a_row]
    for run in failed:
        often = "1 run" if run.failed_in_a_row == 1 else f"{run.failed_in_a_row} runs"
        success = "none has succeeded" if run.succeeded is None else f"the last success: {run.succeeded:%Y-%m-%d %H:%M}"
        name = f" {run.pipeline} {run.run}".rstrip()
        ended = f"{name} at {run.at:%Y-%m-%d %H:%M}: {often} in a row, {success}"
        console.print(Text.assemble(("FAILED", "bold red"), ended))
        for step, why in run.why.items():
            console.print(Text(f"       {step}: {why.strip()}"))
    if failed:
        console.print(f"what to do: {_RUNBOOKS}/MtorlPipelineFailed.md")
