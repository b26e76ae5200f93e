"""Prints the results of commands as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from features.forget.folder import Report
    from features.ingest.ingest import IngestReport
    from features.sequences.manifest import Manifest
    from serving.decision_log.forget import SpoolWithout


def print_summary(run: Path, root: Path) -> None:
    """Print the main figures of a run, and the path of its report."""
    summary = json.loads((run / "summary.json").read_text())
    title = f"{summary['dataset']}: {summary['rows']:,} touchpoints of {summary['users']:,} users"
    table, latest = titled(title, "what", "result"), root / "latest"
    for line in _summary_lines(summary):
        table.add_row(*line)
    Console().print(table)
    typer.echo(f"report: {latest / 'report.html'}   figures: {latest / 'summary.json'}")


def print_evaluation(figures: dict[str, Any]) -> None:
    """Print the quality of an artifact's predictions, and the value of its policy."""
    console = Console()
    if (share := figures["data"]["share"]) < 1:
        console.print(f"judged on {share:.1%} of the users, chosen by a hash: the log has many touchpoints")
    console.print(_heads(figures))
    console.print(_policy_values(figures["value"]))
    spend = ", ".join(f"{spent:.4g} ({name})" for name, spent in figures["spend"].items())
    console.print(f"expected spend of the decision rules, a row: {spend}")
    if figures["artifact"]["looks_ahead"] is not None:
        console.print(f"value of the future in the decision rule: {_future(figures['artifact'])}")
    console.print(_target(figures["target"]))


def print_faults(log: str, report: IngestReport, quarantine: Path | None) -> None:
    """Print the faults in a log, and the number of valid rows."""
    if report.faults:
        rows, row = (Column(name, justify="right") for name in ("rows", "row"))
        rule, column = (Column(name, no_wrap=True) for name in ("rule", "column"))
        table = Table(rule, column, rows, Column("example", overflow="fold"), row)
        for fault in report.faults:
            # The example is a Text, because Rich would read square brackets in a string as markup.
            example = f"{fault.example}{fault.hint}".removeprefix("; ")
            cells = (fault.rule, fault.column, f"{fault.count:,}", example, f"{fault.row:,}")
            table.add_row(*map(Text, cells))
        Console().print(table)
    total = report.rows + report.quarantined
    lines = [f"{log}: {report.rows:,} of {total:,} rows can be used, of {report.users:,} users"]
    if report.moved_ties:
        lines.append(f"ties: {report.moved_ties:,} rows share a user and time with another row; moved 1 us later each")
    if report.quarantined and quarantine:
        lines.append(f"faulty: {report.quarantined:,} rows, in {quarantine}, each with its reasons")
    elif report.quarantined:
        lines.append(f"faulty: {report.quarantined:,} rows; see them all with: --quarantine FILE")
    if report.conversions:
        lines += report.conversions.lines()
        if quarantine and report.conversions.left_out:
            from features.ingest.conversions import FILE

            lines.append(f"left out: {report.conversions.left_out:,} rows in all, in {quarantine.with_name(FILE)}")
    lines += [f"warning: {warning}" for warning in report.warnings]
    typer.echo("\n".join(lines))


_COUNTS = {
    "rows": "touchpoints",
    "users": "users",
    "one_touchpoint_users": "of them with one touchpoint",
    "journeys": "journeys",
    "session_breaks": "pauses that end a journey",
    "dropped_duplicates": "repeated rows that validation let through, dropped",
    "moved_ties": "ties in time, moved by 1 us",
    "late_rows": "rows that arrived late",
    "capped_users": "bots, cut to their first touchpoints",
    "dropped_by_cap": "rows of bots, dropped",
}


def print_build(manifest: Manifest, out: Path) -> None:
    """Print the content of a windows folder."""
    table = Table("what", Column("count", justify="right"))
    for name, words in _COUNTS.items():
        table.add_row(words, f"{getattr(manifest, name):,}")
    table.add_row("shards", f"{len(manifest.shards):,}")
    Console().print(table)
    typer.echo(f"windows: {out / 'windows'}   content: {manifest.content_sha256[:16]}   engine: {manifest.engine}")


def print_forgotten(folder: str, report: Report, spools: Mapping[str, SpoolWithout]) -> None:
    """Print the removals of `mtorl data forget` from each store, and what remains."""
    removed = {**report.removed, **{name: spool.removed for name, spool in spools.items() if not spool.left}}
    for name, count in sorted(removed.items()):
        if count:
            typer.echo(f"{count:>9,} removed from {name}")
    if nothing := [name for name, count in sorted(removed.items()) if not count]:
        typer.echo(f"nothing left in {', '.join(nothing)}")
    if not removed:
        typer.echo(f"{folder}: has no stores with user records")
    for name, spool in spools.items():
        if spool.left and spool.removed:
            typer.echo(f"{spool.removed:>9,} removed from {name}")
        if spool.left and spool.held:
            typer.echo(
                f"left in {name}: {spool.left:,} decisions. Its router deletes them within 75 minutes of their upload, "
                "and the upload skips these users"
            )
        elif spool.left:
            typer.echo(
                f"left in {name}: {spool.left:,} decisions whose reservations may be open; run this again in 24 hours"
            )
    for model in report.models:
        places = ", ".join(str(place) for place in model.places)
        users = ", ".join(model.users) if len(model.users) <= 5 else f"{len(model.users):,} of them"
        typer.echo(f"trained on {users}: {model.name} {model.version} in {places}")
    if report.raw:
        typer.echo("your own files did not change; a user who is still in one returns when it is read again:")
        for line in report.raw:
            typer.echo(f"  {line}")
        typer.echo("remove the users from these files and from their sources, then run this again")
    for line in report.failed:
        typer.echo(f"not done: {line}", err=True)


def _summary_lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    from monitoring.plain_words import named_in

    offline, gate, serving = summary["offline"], summary["gate"], summary["serving"]
    experiment = summary["experiment"]
    lines = [
        ("reward AUC, unseen users", with_interval(offline, "reward_auc")),
        ("channel accuracy, unseen users", with_interval(offline, "action_accuracy")),
        ("value of the future", _future(summary["train"])),
        ("gate", f"{gate['decision']}: {gate['reason']}"),
        ("decisions", f"{serving['decisions']:,}, {serving['errors']} errors, {serving['fallbacks']} fallbacks"),
        *_refused(serving),
        ("latency", f"p50 {serving['p50_ms']:.1f} ms, p99 {serving['p99_ms']:.1f} ms"),
        *(
            (
                f"budget, {arm}",
                f"{budget['spent']:,.2f} of {budget['limit']:,.2f} spent"
                f"{'' if (share := budget['spent_share']) is None else f' ({share:.1%})'}, "
                f"{budget['overspent']:,.2f} over",
            )
            for arm, budget in summary["budget"].items()
        ),
        (
            f"lift, {named_in(experiment['metric'], experiment['units'])}",
            with_interval(experiment, "lift", sign="+", places=4),
        ),
        ("true lift (simulator)", f"{experiment['true_lift']:+.4f}")
        if experiment["true_lift"] is not None
        else ("outcomes", summary["outcomes"]),
        ("verdict", f"{experiment['verdict']}: {experiment['reason']}"),
        *_stages(summary["stages"]),
        *_next_night(summary["next_night"]),
        ("monitor", _alarms(summary["monitor"])),
        ("time", f"{summary['seconds']:.0f} s"),
    ]
    if summary["quarantined"]["rows"]:
        lines.insert(0, ("quarantined rows", f"{summary['quarantined']['rows']:,}"))
    if told := summary.get("conversions"):
        lines.insert(0, ("conversions", f"{told['attributed']:,} of {told['rows']:,} count for a touchpoint"))
    return lines


def _future(found: dict[str, Any]) -> str:
    return f"{'on' if found['looks_ahead'] else 'off'}, foresight {found['foresight']:.2f} standard errors"


def _alarms(monitor: dict[str, Any]) -> str:
    from monitoring.plain_words import TRAFFIC

    counts = [f"{len(monitor[name]['alarms'])} on {traffic}" for name, traffic in TRAFFIC.items()]
    asked = "; it requests a training" if monitor["shifted"]["retrain"] else ""
    faults = "".join(
        f"; {traffic} was not judged: {monitor[name]['not_judged']}"
        for name, traffic in TRAFFIC.items()
        if monitor[name]["not_judged"]
    )
    return f"alarms: {', '.join(counts)}{asked}{faults}"


def _refused(serving: dict[str, Any]) -> list[tuple[str, str]]:
    told = f"{serving['refused']:,} of {serving['opportunities']:,} opportunities were refused with 429 after retries"
    return [("router too busy", told)] if serving["refused"] else []


def _stages(stages: dict[str, Any]) -> list[tuple[str, str]]:
    moves = stages["moves"]
    lines = [("stages", ", ".join(move["to"] for move in moves))]
    if stages["phase"] in ("stopped", "rolled back"):
        lines.append((stages["phase"], f"all users get the incumbent: {moves[-1]['reason']}"))
    if stages["waits"]:
        lines.append((f"at {stages['phase']}", f"a longer run would continue here. {'; '.join(stages['waits'])}"))
    if after := stages["after_promotion"]:
        told = f"{after['promoted_model']:,} of {after['decisions']:,} decisions by the challenger's model"
        lines.append(("after the promotion", f"{told}, {after['incumbent']:,} in the arm of the incumbent"))
    return lines


def _next_night(learned: dict[str, Any] | None) -> list[tuple[str, str]]:
    if learned is None:
        return []
    places = f"{learned['opportunities']:,} of {learned['decisions']:,} decisions"
    return [("the next night trains on", f"{learned['exposures']:,} more exposures, and prices and values at {places}")]


def _heads(figures: dict[str, Any]) -> Table:
    data, compared = figures["data"], figures["compared"]
    left_out = f", without {data['left_out_users']:,} training users" if data["left_out_users"] else ""
    rows = f"{data['rows']:,} touchpoints of {data['users']:,} users{left_out}"
    others = list(compared["differences"])
    differences = (f"{name} less {compared['yardstick']}" for name in others)
    table = titled(f"{figures['artifact']['name']} on {rows}", "what", *compared["metrics"], *differences)
    for metric in (name for name in compared["metrics"]["model"] if not name.endswith("_ci")):
        cells = [with_interval(values, metric) for values in compared["metrics"].values()]
        cells += [with_interval(compared["differences"][name], metric, sign="+") for name in others]
        table.add_row(metric.replace("_", " "), *cells)
    return table


def _policy_values(values: dict[str, Any]) -> Table:
    columns = ("policy", "as logged", "IPS", "SNIPS", "DR", "DR less logged", "ESS", "overlap", "")
    table = titled("value of its policies, gain per row", *columns)
    for name, value in values.items():
        doubly_robust = value["estimates"]["dr"]
        cells = [with_interval(value["estimates"][estimate], "value") for estimate in ("ips", "snips", "dr")]
        cells.append(with_interval(doubly_robust, "lift", sign="+"))
        caveat = f"not evaluable: {value['not_evaluable']}" if value["not_evaluable"] else ""
        weights = [f"{value['importance_weights'][figure]:.2f}" for figure in ("ess_share", "overlap")]
        table.add_row(name, f"{value['logged']:.4f}", *cells, *weights, caveat)
    return table


def _target(target: dict[str, Any]) -> str:
    from mtorl.evaluation.gate import MARGIN

    if target["channel"] is None:
        return "target, not below the best constant channel: the log can't tell which channel is the best"
    least, ends = -MARGIN * target["constant"], target["difference_ci"]
    met = "not defined" if ends is None else "met" if ends[0] >= least else "not met"
    less = f"best expected gain less the best constant channel ({target['channel']})"
    figures = with_interval(target, "difference", sign="+", places=4)
    return f"target, {less}: {figures}; the lower end must be at least {least:.4f}: {met}"


def titled(title: str, *columns: str | Column) -> Table:
    """Create a table with a title at the left."""
    return Table(*columns, title=title, title_justify="left")


def with_interval(figures: dict[str, Any], name: str, sign: str = "", places: int = 3) -> str:
    """Format the figure `NAME` with its interval `NAME_ci`."""
    if figures.get(name) is None or figures.get(f"{name}_ci") is None:
        return "not defined"
    form = f"{sign}.{places}f"
    low, high = figures[f"{name}_ci"]
    if low is None or high is None:
        return f"{figures[name]:{form}}, too few users for an interval"
    return f"{figures[name]:{form}} [{low:{form}}, {high:{form}}]"
