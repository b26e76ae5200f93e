"""Writes the self-contained report.html of a run of `mtorl run`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monitoring import charts, plain_words
from monitoring.watch.stream_names import labels_of
from mtorl.pages.charts import BLUE, GREY, shares
from mtorl.pages.page import write_page
from mtorl.runtime.progress import without_progress_bar

Json = dict[str, Any]
# The last bar counts users with at least this many touchpoints.
_LONGEST = 30


def render(run: Path) -> Path:
    """Write report.html into the folder of a finished run and return its path."""
    filters: dict[str, Callable[..., str]] = {"metric": plain_words.metric, "named": plain_words.named_in}
    return write_page(run / "report.html", Path(__file__).parent / "report.html.j2", _page(run), filters)


def _page(run: Path) -> Json:
    summary: Json = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    metrics: Json = json.loads((run / "artifacts" / "challenger" / "metrics.json").read_text(encoding="utf-8"))
    experiment, train = summary["experiment"], summary["train"]
    primary = plain_words.named_in(experiment["metric"], experiment["units"])
    words, tone = plain_words.VERDICTS[experiment["verdict"]]
    return {
        "name": summary["dataset"],
        "run": run.resolve().name,
        "summary": summary,
        "headline": {"words": words, "tone": tone, "reason": experiment["reason"]},
        "data": _data(run / "data" / "touchpoints.parquet"),
        "train": train,
        "members": len(metrics["members"]),
        "training_chart": charts.training(metrics["history"], train["best_epoch"]),
        "offline": _offline({"challenger": summary["offline"], "incumbent": summary["offline_incumbent"]}),
        "gate": _gate(summary["gate"]),
        "experiment": _experiment(experiment, primary),
        "stages": summary["stages"],
        "primary": primary,
        "serving": summary["serving"],
        "budget": _budget(summary["budget"]),
        "periods": [_period(name, summary["monitor"][name]) for name in plain_words.TRAFFIC],
        "artifacts": summary["artifacts"],
    }


def _data(log: Path) -> Json:
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
    shares_of = [(row["channel"], row["share"]) for row in channels]
    return data | {
        "channels": channels,
        "channel_chart": shares("channel-shares", shares_of, "Share of touchpoints"),
        "journey_chart": charts.journey_lengths(journeys, _LONGEST),
    }


def _offline(arms: dict[str, Json]) -> Json:
    names = [name for name in arms["challenger"] if f"{name}_ci" in arms["challenger"]]
    rows = [
        {"name": name, "arms": [{"value": arm.get(name), "ci": arm.get(f"{name}_ci")} for arm in arms.values()]}
        for name in names
    ]
    return {"arms": list(arms), "rows": rows}


def _gate(gate: Json) -> Json:
    short, words, tone = plain_words.GATES[gate["decision"]]
    colours = {"challenger": BLUE, "incumbent": GREY}
    values = [(arm, gate[arm], gate[f"{arm}_ci"], colour) for arm, colour in colours.items()]
    trust = [
        {"arm": arm, **{name: gate[name][arm] for name in ("ess", "ess_share", "overlap", "mean_weight")}}
        for arm in colours
    ]
    chart = charts.policy_values(values, "value per opportunity at the same budget")
    return {**gate, "short": short, "words": words, "tone": tone, "chart": chart, "trust": trust}


def _experiment(experiment: Json, primary: str) -> Json:
    page = dict(experiment)
    page["tone"] = plain_words.VERDICTS[experiment["verdict"]][1]
    page["guardrails"] = [
        {**check, "words": plain_words.GUARDRAILS[check["state"]][0], "tone": plain_words.GUARDRAILS[check["state"]][1]}
        for check in experiment["guardrails"]
    ]
    page["arms"] = [
        {"arm": name, **arm, "exposed": arm["exposures"] / arm["decisions"] if arm["decisions"] else None}
        for name, arm in experiment["arms"].items()
    ]
    page["of_arms"] = plain_words.of_arms(experiment)
    page["moved"] = plain_words.moved(experiment["moved_users"])
    page["confidence"] = plain_words.confidence(experiment)
    has_interval = any(None not in experiment[name] for name in ("lift_ci", "lift_ci_fixed"))  # else no chart
    page["chart"] = charts.lift(experiment, primary) if has_interval else None
    return page


def _budget(arms: Json) -> Json:
    totals = {name: sum(arm[name] for arm in arms.values()) for name in ("limit", "spent")}
    return {
        "arms": arms,
        "chart": charts.budgets(arms),
        "exceeded": any(arm["overspent"] for arm in arms.values()),
        "shares": any(arm["spent_share"] is not None for arm in arms.values()),
        **totals,
    }


def _period(name: str, found: Json) -> Json:
    kinds = {labels_of(alarm["stream"]).measure: alarm["kind"] for alarm in found["alarms"]}
    columns = [_column(row, kinds.get(row["column"])) for row in found["columns"]]
    return {**found, "traffic": plain_words.TRAFFIC[name], "columns": columns}


def _column(row: Json, alarm: str | None) -> Json:
    """Add a bar that compares the score with its threshold; a full bar is twice the threshold."""
    score, threshold = row["score"], row["threshold"]
    bar = min(max(score / threshold / 2, 0.0), 1.0) if score is not None and threshold else None
    return {**row, "bar": bar, "alarm": plain_words.ALARMS[alarm] if alarm else ""}
