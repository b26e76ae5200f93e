"""The tables that commands print at their end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from features.forget.places import Report
    from features.ingest.ingest import IngestReport
    from features.sequences.manifest import Manifest
    from monitoring.experiments.document import Newest
    from monitoring.verdict.long_term import LongTerm
    from monitoring.verdict.segments import Segments
    from mtorl.evaluation.exploration_plan import ExplorationPlan
    from mtorl.evaluation.shadow import ShadowReport
    from serving.decision_log.forget import SpoolWithout


def print_summary(run: Path, root: Path) -> None:
    """Print the figures of a run that people look for first, and where the report is."""
    summary = json.loads((run / "summary.json").read_text())
    table = _titled(f"{summary['dataset']}: {summary['rows']:,} touchpoints of {summary['users']:,} users")
    table.add_column("what")
    table.add_column("result")
    for name, value in _summary_lines(summary):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print(
        f"report: {root / 'latest' / 'report.html'}   figures: {root / 'latest' / 'summary.json'}", soft_wrap=True
    )


def print_evaluation(figures: dict[str, Any]) -> None:
    """Print an artifact's figures on a log: heads, policy value, budget curve."""
    console = Console()
    console.print(_heads(figures))
    console.print(_policy_values(figures["value"]))
    journeys, steps = figures["journeys"], len(figures["journeys"]["ess_share"])
    caveat = f"; not evaluable: {journeys['not_evaluable']}" if journeys["not_evaluable"] else ""
    console.print(
        f"its decision rule over the first {steps} steps, gain per journey (self-normalised, per decision): "
        f"{_with_interval(journeys['estimates']['snpdis'], 'value')}, as logged {journeys['logged']:.4f}, "
        f"ESS {journeys['ess_share'][-1]:.2f}{caveat}",
        highlight=False,
    )
    if figures["budget"]:
        console.print(_budget_curve(figures["budget"]))


def print_shadow(report: ShadowReport) -> None:
    """Print what a challenger would have done, and by segment, if segments were asked for."""
    from mtorl.evaluation.shadow import in_words

    console = Console()
    for line in in_words(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for column, segments in report["segments"].items():
        table = _titled(f"by {column}")
        for name in (column, "decisions", "same action", "gain per decision, difference"):
            table.add_column(name)
        for segment in segments:
            agreement, value = segment["agreement"], segment["value"]
            table.add_row(
                "unknown" if segment["segment"] is None else segment["segment"],
                f"{segment['decisions']:,}",
                f"{agreement['same_action']:.1%}",
                _with_interval(dict(value), "difference", "+", 4) if value else "not known",
            )
        console.print(table)
        if smaller := report["decisions"] - sum(segment["decisions"] for segment in segments):
            console.print(f"{smaller:,} decisions are of smaller segments", highlight=False)


def print_exploration(plan: ExplorationPlan, decisions_a_day: float) -> None:
    """Print what exploring would cost and teach; in days, if it is known how many decisions there are in one."""
    from mtorl.evaluation.exploration_plan import in_words

    console = Console()
    for line in in_words(plan):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = _titled(f"what exploring costs, and when a difference of {plan.lift:.0%} is told")
    per, told = ("a day", "told after, days") if decisions_a_day else ("per 1,000 decisions", "told after, decisions")
    for name in ("scope", "share", f"gain lost {per}", "of the gain", "never made", "left to forecasts", told):
        table.add_column(name)
    for option in plan.options:
        told_after = option.told_after if option.judged else None
        after = "never" if told_after is None else f"{told_after / (decisions_a_day or 1):,.0f}"
        table.add_row(
            option.scope if option.share else "none",
            f"{option.share:.0%}",
            f"{option.cost * (decisions_a_day or 1000):,.2f}",
            f"{option.cost_share:.1%}",
            f"{option.impossible:.0%}",
            f"{option.forecast - option.impossible:.0%}",
            after,
        )
    console.print(table)


def print_plan(plan: dict[str, Any]) -> None:
    """Print what an experiment needs."""
    seen, adjustment = plan["seen"], plan["adjustment"]
    after = f" after the {_span(seen['past_days'])} of their past" if seen["past_days"] else ""
    lines = [
        f"seen: {seen['users']:,} users of the incumbent in {_span(seen['days'])}{after}, {seen['decisions']:,} "
        f"decisions, {seen['value']:.4g} {seen['unit']}",
        f"to find {plan['effect']:+.1%} with a share of {plan['share']:.0%}, looked at whenever people like, takes "
        f"about {plan['users']:,} users",
        f"which found it in {plan['power']:.0%} of {plan['runs']:,} experiments that were played",
        f"decisions of these users: {plan['decisions']:,.0f}, for {plan['cost']:,.2f} at the incumbent's cost",
    ]
    days = plan["days"]
    lines.append(
        "days: not known from less than a day; say --users-a-day"
        if days is None
        else f"days at the last stage: {days:,.2f}"
    )
    if adjustment is not None:
        lines.append(_what_covariates_bring(adjustment))
    for line in lines:
        Console().print(line, highlight=False, markup=False, soft_wrap=True)


def _span(days: float) -> str:
    """A time in the unit that tells it."""
    if days >= 1:
        return f"{days:.2f} days"
    return f"{24 * days:.1f} hours" if 24 * days >= 1 else f"{1440 * days:.0f} minutes"


def _what_covariates_bring(adjustment: dict[str, Any]) -> str:
    names, without = ", ".join(adjustment["covariates"]), adjustment["without"]
    takes = "more users than anybody waits for"
    if without is not None:
        days = "" if without["days"] is None else f" and {without['days']:,.2f} days"
        takes = f"about {without['users']:,} users{days}"
    return (
        f"that counts on covariates ({names}), which are known of {adjustment['users_share']:.0%} of these users and "
        f"explain {adjustment['explained']:.0%} of the variance; without them it takes {takes}"
    )


def print_verdict(verdict: dict[str, Any]) -> None:
    """Print a verdict, and the arms that it compares."""
    from monitoring.plain_words import moved, named_in, of_arms

    console = Console()
    console.print(
        f"{verdict['experiment']}: {verdict['verdict']}: {verdict['reason']}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    several = len(verdict["challengers"]) > 1
    for name, one in verdict["challengers"].items():
        if several:
            console.print(f"{name}: {one['verdict']}: {one['reason']}", highlight=False, markup=False, soft_wrap=True)
        if one["lift"] is not None:
            lift = f"{named_in(verdict['metric'], verdict['units'])}: {_with_interval(one, 'lift', '+', 4)}"
            whose = f"lift of {name}" if several else "lift"
            console.print(f"{whose}, {lift}", highlight=False, markup=False, soft_wrap=True)
    table = Table()
    metrics = of_arms(verdict)[:2]
    for name in ("arm", "users", "decisions", "exposures", *(label for _, label in metrics)):
        table.add_column(name)
    for name, arm in verdict["arms"].items():
        counts = (f"{arm[key]:,}" for key in ("users", "decisions", "exposures"))
        means = (arm["metrics"][metric] for metric, _ in metrics)
        table.add_row(name, *counts, *("-" if mean is None else f"{mean:.4f}" for mean in means))
    console.print(table)
    if said := moved(verdict["moved_users"]):
        console.print(f"{verdict['users']:,} users in all: {said}", highlight=False, soft_wrap=True)
    for reason, count in verdict["left_out"].items():
        console.print(f"left out, {reason}: {count:,}", highlight=False)
    for heavy in verdict["heavy_users"]:
        said = f"{heavy['user']!r} makes {heavy['share']:.0%} of the decisions of {heavy['arm']}"
        console.print(f"heavy user: {said}", highlight=False, markup=False, soft_wrap=True)
    if long_term := verdict.get("long_term"):
        console.print(said_of_long_term(long_term), highlight=False, markup=False, soft_wrap=True)
    if segments := verdict.get("segments"):
        _print_segments(console, segments, verdict["alpha"])


def said_of_long_term(found: LongTerm) -> str:
    """What a promotion has brought, in a sentence."""
    who = f"{found['users']['incumbent']:,} users, {found['users']['holdout']:,} held out"
    return f"since the promotion ({who}): {found['words']}"


def said_of_newest(newest: Newest) -> str:
    """How old the newest decision in a log is, in a sentence."""
    from monitoring.plain_words import duration

    return newest["silence"] or f"the newest decision in the log is {duration(newest['age_seconds'])} old"


def _print_segments(console: Console, segments: Segments, alpha: float) -> None:
    for column, lifts in segments["lifts"].items():
        table = _titled(f"by {column}, no part of the verdict")
        for name in (column, "arm", "users", "decisions", "lift per decision"):
            table.add_column(name)
        for lift in lifts:
            segment = "unknown" if lift["segment"] is None else lift["segment"]
            what = _with_interval(dict(lift), "lift", "+", 4) if lift["lift_ci"] else "not known yet"
            table.add_row(segment, lift["challenger"], f"{lift['users']:,}", f"{lift['decisions']:,}", what)
        console.print(table)
        if smaller := segments["smaller"][column]:
            console.print(f"{smaller:,} decisions are of smaller segments", highlight=False)
    console.print(
        f"all of these intervals hold together with {1 - alpha:.0%} however often you look, which makes each of them "
        f"wide ({segments['confidence']:.2%}); naming other columns tomorrow is another chance to be misled",
        highlight=False,
        soft_wrap=True,
    )


def print_faults(log: str, report: IngestReport, quarantine: Path | None) -> None:
    """Print what is wrong with the rows of a log, and how many can be used."""
    if report.faults:
        table = Table()
        table.add_column("rule", no_wrap=True)
        table.add_column("column", no_wrap=True)
        table.add_column("rows", justify="right")
        table.add_column("example", overflow="fold")
        table.add_column("row", justify="right")
        for fault in report.faults:
            # As text: square brackets in someone's log are no markup.
            example = f"{fault.example}{fault.hint}".removeprefix("; ")
            cells = (fault.rule, fault.column, f"{fault.count:,}", example, f"{fault.row:,}")
            table.add_row(*map(Text, cells))
        Console().print(table)
    total = report.rows + report.quarantined
    lines = [f"{log}: {report.rows:,} of {total:,} rows can be used, of {report.users:,} users"]
    if report.moved_ties:
        lines.append(f"ties: {report.moved_ties:,} rows at the time of another one of their user count as 1 us later")
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
    """Print what a folder of windows holds."""
    table = Table()
    table.add_column("what")
    table.add_column("count", justify="right")
    for name, words in _COUNTS.items():
        table.add_row(words, f"{getattr(manifest, name):,}")
    table.add_row("shards", f"{len(manifest.shards):,}")
    Console().print(table)
    typer.echo(f"windows: {out / 'windows'}   content: {manifest.content_sha256[:16]}   engine: {manifest.engine}")


def print_forgotten(folder: Path, report: Report, spools: Mapping[str, SpoolWithout]) -> None:
    """Print what was taken out of each store, what could not be, what stays, and which models were trained on it."""
    removed = {**report.removed, **{name: spool.removed for name, spool in spools.items() if not spool.left}}
    for name, count in sorted(removed.items()):
        if count:
            typer.echo(f"{count:>9,} removed from {name}")
    if nothing := [name for name, count in sorted(removed.items()) if not count]:
        typer.echo(f"nothing left in {', '.join(nothing)}")
    if not removed:
        typer.echo(f"{folder}: holds nothing in which users could be")
    for name, spool in spools.items():
        if spool.left and spool.removed:
            typer.echo(f"{spool.removed:>9,} removed from {name}")
        if spool.left and spool.held:
            typer.echo(
                f"stays in {name}: {spool.left:,} decisions, until the router that holds it deletes them "
                "(keep_hours); what it exports and ships leaves them out"
            )
        elif spool.left:
            typer.echo(
                f"stays in {name}: {spool.left:,} decisions whose reservation may be open; run this again in 24 hours"
            )
    for model in report.models:
        places = ", ".join(str(place) for place in model.places)
        typer.echo(f"trained on {_users(model.users)}: {model.name} {model.version} in {places}")
    if report.raw:
        typer.echo("your own files stay as they are; whoever is still in one comes back when it is read again:")
        for line in report.raw:
            typer.echo(f"  {line}")
        typer.echo("remove them there, in the file and wherever it is made from, then run this again")
    for line in report.failed:
        typer.echo(f"not done: {line}", err=True)


def _users(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{len(names):,} of them"


def _summary_lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    from monitoring.plain_words import named_in

    offline, gate, serving = summary["offline"], summary["gate"], summary["serving"]
    experiment = summary["experiment"]
    lines = [
        ("reward AUC, unseen users", _with_interval(offline, "reward_auc")),
        ("channel accuracy, unseen users", _with_interval(offline, "action_accuracy")),
        ("gate", f"{gate['decision']}: {gate['reason']}"),
        ("decisions", f"{serving['decisions']:,}, {serving['errors']} errors, {serving['fallbacks']} fallbacks"),
        *_refused(serving),
        ("latency", f"p50 {serving['p50_ms']:.1f} ms, p99 {serving['p99_ms']:.1f} ms"),
        *(
            (
                f"budget, {arm}",
                f"{budget['spent']:,.2f} of {budget['limit']:,.2f} spent{_share(budget['spent_share'])}, "
                f"{budget['overspent']:,.2f} over",
            )
            for arm, budget in summary["budget"].items()
        ),
        (
            f"lift, {named_in(experiment['metric'], experiment['units'])}",
            _with_interval(experiment, "lift", sign="+", places=4),
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


def _alarms(monitor: dict[str, Any]) -> str:
    from monitoring.plain_words import TRAFFIC

    counts = [f"{len(monitor[name]['alarms'])} on {traffic}" for name, traffic in TRAFFIC.items()]
    asked = "; it asks for a new training" if monitor["shifted"]["retrain"] else ""
    return f"alarms: {', '.join(counts)}{asked}"


def _refused(serving: dict[str, Any]) -> list[tuple[str, str]]:
    told = f"{serving['refused']:,} of {serving['opportunities']:,} opportunities were refused with 429 after retries"
    return [("router too busy", told)] if serving["refused"] else []


def _stages(stages: dict[str, Any]) -> list[tuple[str, str]]:
    moves = stages["moves"]
    lines = [("stages", ", ".join(move["to"] for move in moves))]
    if stages["phase"] in ("stopped", "rolled back"):
        lines.append((stages["phase"], f"everybody gets the incumbent: {moves[-1]['reason']}"))
    if stages["waits"]:
        lines.append((f"at {stages['phase']}", f"it would go on. {'; '.join(stages['waits'])}"))
    if after := stages["after_promotion"]:
        told = f"{after['promoted_model']:,} of {after['decisions']:,} decisions by the challenger's model"
        lines.append(("after the promotion", f"{told}, {after['incumbent']:,} in the arm of the incumbent"))
    return lines


def _next_night(learned: dict[str, Any] | None) -> list[tuple[str, str]]:
    if learned is None:
        return []
    shares = ", ".join(f"{row['arm']} {row['supported']:.0%}" for row in learned["generations"])
    return [
        (
            "the next night trains on",
            f"{learned['exposures']:,} more exposures, and prices and values at {learned['opportunities']:,} of "
            f"{learned['decisions']:,} decisions; of all possible exposures they could have made: {shares}",
        )
    ]


def _heads(figures: dict[str, Any]) -> Table:
    data, compared = figures["data"], figures["compared"]
    left_out = f", {data['left_out_users']:,} training users left out" if data["left_out_users"] else ""
    rows = f"{data['rows']:,} touchpoints of {data['users']:,} users{left_out}"
    others = list(compared["differences"])
    table = _titled(f"{figures['artifact']['name']} on {rows}")
    for column in ("what", *compared["metrics"], *(f"{name} less {compared['yardstick']}" for name in others)):
        table.add_column(column)
    for metric in (name for name in compared["metrics"]["model"] if not name.endswith("_ci")):
        cells = [_with_interval(values, metric) for values in compared["metrics"].values()]
        cells += [_with_interval(compared["differences"][name], metric, sign="+") for name in others]
        table.add_row(metric.replace("_", " "), *cells)
    return table


def _policy_values(values: dict[str, Any]) -> Table:
    table = _titled("value of its policies, gain per row")
    for column in ("policy", "as logged", "IPS", "SNIPS", "DR", "DR less logged", "ESS", "overlap", ""):
        table.add_column(column)
    for name, value in values.items():
        doubly_robust = value["estimates"]["dr"]
        cells = [_with_interval(value["estimates"][estimate], "value") for estimate in ("ips", "snips", "dr")]
        cells.append(_with_interval(doubly_robust, "lift", sign="+"))
        caveat = f"not evaluable: {value['not_evaluable']}" if value["not_evaluable"] else ""
        weights = [f"{value['importance_weights'][figure]:.2f}" for figure in ("ess_share", "overlap")]
        table.add_row(name, f"{value['logged']:.4f}", *cells, *weights, caveat)
    return table


def _share(share: float | None) -> str:
    return "" if share is None else f" ({share:.1%})"


def _budget_curve(budget: dict[str, Any]) -> Table:
    table = _titled("share of all gain that a share of the spend buys")
    rules = ("cheapest", "predicted_gain", "random", "oracle")
    for column in ("budget", *(f"{name}, gain / cost" for name in budget), *rules):
        table.add_column(column.replace("_", " "))
    for i, row in enumerate(budget["model"]):
        cells = [_with_interval(rows[i], "mtorl", places=3) for rows in budget.values()]
        others = ("-" if row[rule] is None else f"{row[rule]:.3f}" for rule in rules)
        table.add_row(f"{100 * row['share']:g} %", *cells, *others)
    return table


def _titled(title: str) -> Table:
    return Table(title=title, title_justify="left")


def _with_interval(figures: dict[str, Any], name: str, sign: str = "", places: int = 3) -> str:
    if figures.get(name) is None or figures.get(f"{name}_ci") is None:
        return "not defined"
    form = f"{sign}.{places}f"
    low, high = figures[f"{name}_ci"]
    if low is None or high is None:
        return f"{figures[name]:{form}}, too few users for an interval"
    return f"{figures[name]:{form}} [{low:{form}}, {high:{form}}]"
