"""Writes report.html of a run beside its summary.json: self-contained, nothing is loaded from outside.

    render(Path("runs/latest"))

A section without data is left out: half a run still gives a page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monitoring import charts, plain_words
from monitoring.watch.streams import labels_of
from mtorl.pages.charts import BLUE, GREY, shares
from mtorl.pages.page import write_page
from mtorl.runtime.duckdb_progress import without_progress_bar

Json = dict[str, Any]
_LONGEST = 30  # journeys of this length and longer share one bar


def render(run_dir: Path) -> Path:
    """Write report.html into a run directory and return its path."""
    run_dir = Path(run_dir)
    template = Path(__file__).parent / "report.html.j2"
    return write_page(
        run_dir / "report.html",
        template,
        _page(run_dir),
        {"metric": plain_words.metric, "named": plain_words.named_in},
    )


def _page(run_dir: Path) -> Json:
    """Everything that the template reads."""
    summary = _read(run_dir / "summary.json")
    metrics = _read(run_dir / "artifacts" / "challenger" / "metrics.json")
    experiment = _section(summary, "experiment")
    gate = _section(summary, "gate")
    primary = plain_words.named_in(experiment.get("metric") or "", experiment.get("units") or {})
    history = metrics.get("history") or []
    curve = metrics.get("budget_curve") or summary.get("budget_curve") or []
    return {
        "name": summary.get("dataset") or run_dir.resolve().name,
        "run": run_dir.resolve().name,
        "summary": summary,
        "headline": _headline(experiment, gate),
        "data": _data(run_dir / "data" / "touchpoints.parquet"),
        "train": _section(summary, "train") or {key: metrics.get(key) for key in ("seconds", "best_epoch")},
        "epochs": len(history),
        "members": len(metrics.get("members") or [{}]),
        "training_chart": charts.training(history, _best_epoch(summary, metrics)) if history else None,
        "offline": _offline(_section(summary, "offline"), _section(summary, "offline_incumbent")),
        "gate": _gate(gate),
        "curve": charts.budget_curve(curve) if curve else None,
        "experiment": _experiment(experiment, primary),
        "stages": _section(summary, "stages"),
        "primary": primary,
        "serving": _section(summary, "serving"),
        "budget": _budget(_section(summary, "budget")),
        "monitor": _monitor(_section(summary, "monitor")),
        "artifacts": _section(summary, "artifacts"),
    }


def _headline(experiment: Json, gate: Json) -> Json:
    """The sentence on top: the verdict if there is one, else the gate's."""
    if experiment.get("verdict"):
        words, tone = plain_words.verdict(experiment["verdict"])
        return {"words": words, "tone": tone, "reason": experiment.get("reason")}
    if gate.get("decision"):
        words, tone = plain_words.gate(gate["decision"])
        return {"words": words, "tone": tone, "reason": gate.get("reason")}
    return {"words": "No experiment in this run", "tone": "open", "reason": None}


def _data(log: Path) -> Json | None:
    """Figures and charts of a canonical touchpoint log (Parquet)."""
    if not log.exists():
        return None
    import duckdb

    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        without_progress_bar(db)
        db.from_parquet(str(log)).create_view("touchpoints")
        db.execute("CREATE TABLE journeys AS SELECT count(*) AS length FROM touchpoints GROUP BY user_id")

        def rows(query: str) -> Any:
            return db.execute(query).df().to_dict("records")

        (data,) = rows(
            """SELECT count(*) AS rows, count(DISTINCT user_id) AS users, min(timestamp)::DATE::TEXT AS first,
                      max(timestamp)::DATE::TEXT AS last, avg(click) AS click_rate, avg(conversion) AS conversion_rate,
                      avg(cost) AS cost, (SELECT median(length) FROM journeys) AS median_journey
               FROM touchpoints"""
        )
        channels = rows(
            """SELECT channel, count(*) / sum(count(*)) OVER () AS share, avg(click) AS click_rate, avg(cost) AS cost
               FROM touchpoints GROUP BY channel ORDER BY count(*) DESC, channel"""
        )
        journeys = rows(
            f"SELECT least(length, {_LONGEST}) AS length, count(*) AS users FROM journeys GROUP BY ALL ORDER BY 1"
        )
    if not data["rows"]:
        return None
    shares_of = [(row["channel"], row["share"]) for row in channels]
    return data | {
        "channels": channels,
        "channel_chart": shares("channel-shares", shares_of, "Share of touchpoints"),
        "journey_chart": charts.journey_lengths(journeys, _LONGEST),
    }


def _best_epoch(summary: Json, metrics: Json) -> int | None:
    best = _section(summary, "train").get("best_epoch", metrics.get("best_epoch"))
    return best if isinstance(best, int) else None


def _offline(challenger: Json, incumbent: Json) -> Json | None:
    """Rows of metrics that have an interval, of the arms that were measured."""
    arms = {"challenger": challenger} | ({"incumbent": incumbent} if incumbent else {})
    names = [name for name in challenger if f"{name}_ci" in challenger]
    if not names:
        return None
    rows = [
        {"name": name, "arms": [{"value": arm.get(name), "ci": arm.get(f"{name}_ci")} for arm in arms.values()]}
        for name in names
    ]
    return {"arms": list(arms), "rows": rows}


def _gate(gate: Json) -> Json | None:
    """The gate's decision, its values for the chart, and how far to trust them."""
    if not gate:
        return None
    words, tone = plain_words.gate(gate.get("decision"))
    colours = {"challenger": BLUE, "incumbent": GREY}
    values = [
        (arm, gate[arm], gate.get(f"{arm}_ci"), colour)
        for arm, colour in colours.items()
        if isinstance(gate.get(arm), int | float)
    ]
    trust = []
    for arm in colours:
        weights = {name: _of_arm(gate, name, arm) for name in ("ess", "ess_share", "overlap", "mean_weight")}
        if any(value is not None for value in weights.values()):
            trust.append({"arm": arm, **weights})
    chart = charts.policy_values(values, "value per opportunity at the same budget") if values else None
    return {**gate, "words": words, "tone": tone, "chart": chart, "trust": trust}


def _of_arm(gate: Json, name: str, arm: str) -> Any:
    value = gate.get(name)
    return value.get(arm) if isinstance(value, dict) else None


def _has_interval(experiment: Json) -> bool:
    """Whether the lift has an interval: a figure alone is not drawn."""
    known = [experiment.get(name) for name in ("lift_ci", "lift_ci_fixed")]
    return experiment.get("lift") is not None and any(one and None not in one for one in known)


def _experiment(experiment: Json, primary: str) -> Json | None:
    if not experiment:
        return None
    page = dict(experiment)
    page["words"], page["tone"] = plain_words.verdict(experiment.get("verdict"))
    page["guardrails"] = [
        {**check, "words": plain_words.GUARDRAILS[check["state"]][0], "tone": plain_words.GUARDRAILS[check["state"]][1]}
        for check in experiment.get("guardrails") or ()
    ]
    arms = experiment.get("arms") or {}
    page["arms"] = [
        {"arm": name, **arm, "exposed": _share(arm, "exposures", "decisions")} for name, arm in arms.items()
    ]
    page["of_arms"] = plain_words.of_arms(experiment) if "units" in experiment else []
    page["moved"] = plain_words.moved(experiment.get("moved_users") or 0)
    page["confidence"] = plain_words.confidence(experiment)
    page["chart"] = charts.lift(experiment, primary) if _has_interval(experiment) else None
    series = [row for row in experiment.get("series") or [] if row.get("lo") is not None]
    page["series_chart"] = charts.lift_series(series, experiment.get("true_lift"), primary) if len(series) > 1 else None
    return page


def _budget(arms: Json) -> Json | None:
    if not arms:
        return None
    totals = {name: sum(arm.get(name) or 0.0 for arm in arms.values()) for name in ("limit", "spent")}
    return {
        "arms": arms,
        "chart": charts.budgets(arms),
        "exceeded": any(arm.get("overspent") for arm in arms.values()),
        "shares": any(arm.get("spent_share") is not None for arm in arms.values()),
        **totals,
    }


def _monitor(monitor: Json) -> Json | None:
    """Findings in both kinds of traffic, with the columns' scores and Evidently's pages."""
    periods = []
    for name in ("clean", "shifted"):
        if not (found := _section(monitor, name)):
            continue
        kinds = {labels_of(alarm["stream"]).measure: alarm["kind"] for alarm in found["alarms"]}
        columns = [_column(row, kinds.get(row["column"])) for row in found["columns"]]
        periods.append({**found, "traffic": plain_words.TRAFFIC[name], "columns": columns})
    return {"periods": periods} if periods else None


def _column(row: Json, alarm: str | None) -> Json:
    """A row with its score as a share of twice the threshold: the middle of the bar is the threshold."""
    score, threshold = row["score"], row["threshold"]
    bar = min(max(score / threshold / 2, 0.0), 1.0) if score is not None and threshold else None
    return {**row, "bar": bar, "alarm": plain_words.ALARMS[alarm] if alarm else ""}


def _share(row: Json, part: str, whole: str) -> float | None:
    return row[part] / row[whole] if row.get(whole) and row.get(part) is not None else None


def _section(summary: Json, name: str) -> Json:
    value = summary.get(name)
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> Json:
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
