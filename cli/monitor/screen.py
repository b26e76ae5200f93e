"""The monitor's last result in the terminal: what is wrong first, then what was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitoring.pipeline_runs import PipelineRun
from monitoring.watch.state import Alarm, State

_ORDER = {"harm": 0, "data_quality": 1, "drift": 2}
_SAID = {
    "harm": ("HARM", "bold red", "MtorlHarm"),
    "data_quality": ("BROKEN", "bold red", "MtorlDataBroken"),
    "drift": ("moved", "yellow", "MtorlDrift"),
}

_RUNBOOKS = "https://github.com/mtorl-kubeflow/mtorl-kubeflow/blob/main/docs/runbooks"
_NO_FAULT = {"learning": "learning", "nothing_there": "no need", "closed": "closed"}


def show(state: State, folder: Path) -> None:
    """Print a state; `folder` holds it and its pages."""
    console = Console(highlight=False, soft_wrap=True)
    alarms = sorted(state.alarms().items(), key=lambda item: (_ORDER[item[1].kind], item[0]))
    if not alarms:
        console.print("nothing is wrong in what was judged" if _judged(state) else "nothing could be judged yet")
    for name, alarm in alarms:
        console.print(_line(name, alarm))
    if sum(alarm.kind == "harm" for _, alarm in alarms) > 1:
        console.print("two measures may be two views of one loss: do not add them up")
    if alarms:  # the worst come first, and their page says what to make of the others
        console.print(f"what to do: {_RUNBOOKS}/{_SAID[alarms[0][1].kind][2]}.md")
    if state.retrain is not None:
        console.print(f"a new training is asked for since {state.retrain.since:%Y-%m-%d}: {state.retrain.reason}")
    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("group", "left"),
        ("period until, UTC", "left"),
        ("decisions", "right"),
        ("users", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("judged")
    for name, group in state.groups.items():
        until = f"{group.end:%Y-%m-%d %H:%M}" if group.end else "-"
        why = group.not_judged
        judged = "yes" if why is None else f"{_NO_FAULT.get(why.reason, 'NO')}: {why.text}"
        table.add_row(name, until, f"{group.decisions:,}", f"{group.users:,}", judged)
    console.print(table)
    if state.checked is not None:
        hours = (datetime.now(UTC) - state.checked).total_seconds() / 3600
        console.print(f"last check: {state.checked:%Y-%m-%d %H:%M} UTC, {hours:,.1f} hours ago")
    if next((folder / "periods").glob("*/drift.html"), None) is not None:
        console.print(f"columns of each period beside the training sample: {folder / 'periods'}/*/drift.html")


def show_failed(runs: Sequence[PipelineRun]) -> None:
    """Print which pipelines fail, and what their steps said; nothing if none does."""
    console = Console(highlight=False, soft_wrap=True)
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


def _judged(state: State) -> bool:
    return any(group.not_judged is None for group in state.groups.values())


def _line(name: str, alarm: Alarm) -> Text:
    word, style, _ = _SAID[alarm.kind]
    return Text.assemble((f"{word:6}", style), f" {name} since {alarm.since:%Y-%m-%d %H:%M} UTC: {alarm.text}")
