"""Write the tables of measurements, docs/tables/*.md, from benchmarks/results.

The results come from these commands, the last of which writes the tables:

    python benchmarks/loop.py [--data FILE --dataset NAME] --json benchmarks/results/loop/NAME.json    # each data set
    python benchmarks/loop_stages.py ../before --json benchmarks/results/loop_stages.json   # of an earlier revision
    python benchmarks/train.py [--data FILE --dataset NAME] --json benchmarks/results/train/NAME.json  # each data set
    python benchmarks/aggregates.py [--data FILE --dataset NAME] --json benchmarks/results/aggregates/NAME.json
    python benchmarks/features.py --json benchmarks/results/features.json
    python benchmarks/serving.py --run runs/latest --json benchmarks/results/serving.json
    python benchmarks/serving_before.py ../before --run runs/latest --json benchmarks/results/serving_before.json
    python benchmarks/decision_log.py --json benchmarks/results/decision_log.json
    python benchmarks/experiments.py --json benchmarks/results/experiments.json
    python benchmarks/adjustment.py --json benchmarks/results/adjustment.json
    python benchmarks/futility.py --json benchmarks/results/futility.json
    python benchmarks/shared_budget.py --json benchmarks/results/shared_budget.json
    python benchmarks/independence.py --json benchmarks/results/independence.json
    python benchmarks/operator_switch.py --run runs/latest --json benchmarks/results/operator_switch.json
    python benchmarks/plan.py --json benchmarks/results/plan.json
    python benchmarks/verdict.py --json benchmarks/results/verdict.json
    python benchmarks/shadow.py --run runs/latest --json benchmarks/results/shadow.json
    python benchmarks/kill_switch.py --run runs/latest --json benchmarks/results/kill_switch.json
    python benchmarks/tracing.py --run runs/latest --json benchmarks/results/tracing.json
    python benchmarks/regret.py --json benchmarks/results/regret.json
    python benchmarks/search.py --json benchmarks/results/search.json
    python benchmarks/collect.py --json benchmarks/results/collect.json
    python benchmarks/generations.py --json benchmarks/results/generations.json
    python benchmarks/pacing.py --json benchmarks/results/pacing.json
    python benchmarks/drift.py [--data FILE --dataset NAME] --json benchmarks/results/drift/NAME.json
    python benchmarks/drift_job.py --json benchmarks/results/drift_job.json
    python benchmarks/monitoring.py --json benchmarks/results/monitoring.json
    python benchmarks/soak.py --run runs/latest --json benchmarks/results/soak.json
    python benchmarks/cluster.py --namespace mtorl-dev --json benchmarks/results/cluster.json
    python benchmarks/tables.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from _environment import ROOT

from benchmarks._markdown import Figures, Show, measured_on, table
from benchmarks.collecting.table import collect_table, generations_table
from benchmarks.drift_rates.table import job_table, rates_table
from benchmarks.experiment_runs.table import (
    adjustment_tables,
    experiment_tables,
    futility_table,
    plan_table,
    shared_budget_table,
    verdict_table,
)
from benchmarks.feature_layer.table import feature_tables
from benchmarks.independence import independence_table
from benchmarks.log_storage.table import decision_log_table
from benchmarks.loop_stages import stages_table
from benchmarks.monitoring_runs.table import monitoring_tables
from benchmarks.operator_switch import operator_switch_table
from benchmarks.pacing_runs.table import pacing_table
from benchmarks.request_path.tables import serving_tables, shadow_table, soak_table
from benchmarks.search import search_table
from benchmarks.serving_before import before_table
from benchmarks.tracing import tracing_table

RESULTS = ROOT / "benchmarks" / "results"
TABLES = ROOT / "docs" / "tables"


def main() -> None:
    for name, text in pages().items():
        (TABLES / f"{name}.md").write_text(text)


@dataclass(frozen=True)
class Page:
    """One page of tables."""

    title: str
    explained_in: str
    """Page of docs/ that says what is measured, and how."""
    tables: Callable[[Any], str]
    """Markdown of the figures of results/NAME.json, or of a list of those in results/NAME/, one for each data set."""


def pages() -> dict[str, str]:
    """Name and text of each page of tables."""
    return {name: _text(name, page) for name, page in PAGES.items()}


def _text(name: str, page: Page) -> str:
    one_file = RESULTS / f"{name}.json"
    if one_file.exists():
        source, figures = one_file, json.loads(one_file.read_text())
    else:
        source = RESULTS / name
        figures = [json.loads(path.read_text()) for path in sorted(source.glob("*.json"))]
    return (
        f"# {page.title}\n\n"
        f"Written by `benchmarks/tables.py` from `{source.relative_to(ROOT)}`; do not edit. "
        f"What is measured, and how: [{page.explained_in}](../{page.explained_in}).\n\n{page.tables(figures)}"
    )


def loop_table(results: Sequence[Figures]) -> str:
    """The whole loop, a column for each data set."""
    results = sorted(results, key=lambda result: result["true_lift"] is None)
    rows: dict[str, Show] = {
        "touchpoints": lambda result: f"{result['rows']:,}",
        "whole loop": lambda result: f"{result['seconds']:.0f} s",
        "of it training": lambda result: f"{result['steps']['train-challenger']:.0f} s",
        "decisions over HTTP": lambda result: f"{result['decisions']:,}",
        "errors, fallbacks": lambda result: f"{result['errors']}, {result['fallbacks']}",
        "latency p50, p99": lambda result: f"{result['p50_ms']:.0f} ms, {result['p99_ms']:.0f} ms",
        "gate": lambda result: result["gate"],
        "lift in clicks per decision": _lift,
        "true lift": lambda result: "unknown" if result["true_lift"] is None else f"{result['true_lift']:+.4f}",
        "drift alerts on live traffic": lambda result: str(result["clean_alerts"]),
    }
    body = [[name, *(cell(result) for result in results)] for name, cell in rows.items()]
    return table(["", *(result["dataset"] for result in results)], body) + measured_on(results[0], "loop.py")


def _lift(result: Figures) -> str:
    low, high = result["lift_ci"]
    return f"{result['lift']:+.4f} " + ("(too few users)" if low is None else f"[{low:+.4f}, {high:+.4f}]")


def train_table(results: Sequence[Figures]) -> str:
    """What training costs, a column for each data set."""
    epoch = "epoch_cpu_seconds"
    rows: dict[str, Show] = {
        "touchpoints": lambda result: f"{result['rows']:,}",
        "preparation, the notebook's way": lambda result: f"{result['preparation']['notebook_cpu_seconds']:.1f} s",
        "the same windows here": lambda result: f"{result['preparation']['ours_cpu_seconds']:.2f} s",
        "ratio (aim: 100)": lambda result: f"{result['preparation']['ratio']:.0f}",
        "epoch, published network, 512 wide, float32": lambda result: f"{result[epoch]['published network']:.1f} s",
        "epoch, the same network in bfloat16": lambda result: f"{result[epoch]['published network, bf16']:.1f} s",
        "its float32 / bfloat16 (aim: 2)": lambda result: "{:.2f}".format(
            result[epoch]["published network"] / result[epoch]["published network, bf16"]
        ),
        "epoch, ours, 512 wide, float32": lambda result: f"{result[epoch]['512, fp32']:.1f} s",
        "epoch, ours, 512 wide, bfloat16": lambda result: f"{result[epoch]['512, bf16']:.1f} s",
        "published / ours, both in float32": lambda result: "{:.2f}".format(
            result[epoch]["published network"] / result[epoch]["512, fp32"]
        ),
        "published in float32 / ours in bfloat16": lambda result: "{:.2f}".format(
            result[epoch]["published network"] / result[epoch]["512, bf16"]
        ),
        "epoch, ours, default (64 wide)": lambda result: f"{result[epoch]['64, default']:.2f} s",
        "default model to its best validation (aim: 60 s)": lambda result: (
            f"{result['default']['seconds_to_best']:.0f} s"
        ),
        "its parameters (aim: 300,000)": lambda result: f"{result['default']['parameters']:,}",
    }
    body = [[name, *(cell(result) for result in results)] for name, cell in rows.items()]
    return table(["", *(result["dataset"] for result in results)], body) + measured_on(results[0], "train.py")


def aggregates_table(results: Sequence[Figures]) -> str:
    """What Feast's aggregates add to each method, a row for each data set and method."""
    metrics = {
        "action_accuracy": "channel accuracy",
        "action_auc": "channel AUC",
        "action_logloss": "channel log-loss",
        "reward_auc": "reward AUC",
        "reward_logloss": "reward log-loss",
    }
    rows = [
        [
            f"{result['dataset']}, {result['columns']} columns",
            {"mtorl": "MTORL", "lightgbm": "LightGBM"}[name],
            *("{:+.4f} [{:+.4f}, {:+.4f}]".format(*differences[metric]) for metric in metrics),
        ]
        for result in results
        for name, differences in result["differences"].items()
    ]
    return table(["with them less without", "", *metrics.values()], rows) + measured_on(results[0], "aggregates.py")


def cluster_table(result: Figures) -> str:
    """How soon a change is in force on a cluster."""
    rows = [
        [name, f"{seconds[0]:.1f}", f"{median(seconds):.1f}", f"{seconds[-1]:.1f}"]
        for name, seconds in result["seconds"].items()
    ]
    body = table([f"seconds, {result['changes']} changes each", "least", "median", "most"], rows)
    return f"{body}\nKubernetes {result['environment']['kubernetes']}, one node.\n{measured_on(result, 'cluster.py')}"


def regret_tables(figures: Figures) -> str:
    """What policies earn with a budget, a table for each number of rounds."""
    words = {
        "incumbent": "incumbent: frequencies of the log",
        "cheapest": "the cheapest channel",
        "unpaced": "MTORL at the price of training",
        "mtorl": "**MTORL, paced as when served**",
        "informed": "informed: all that can be known, one step ahead",
        "oracle": "oracle: sees what nobody can see",
    }
    text = f"Means over {figures['seeds']} markets, each with a training of its own; all but one policy paced alike.\n"
    for rounds, policies in figures["rounds"].items():
        rows = [
            [
                words[name],
                f"{one['value']:.4f} +- {1.96 * one['value_se']:.4f}",
                f"{one['of_informed']:.3f} ({one['of_informed_least']:.3f})",
                f"{one['spent_share']:.1%} ({one['spent_share_least']:.1%})",
                f"{one['gain_per_cost']:.3f}",
            ]
            for name, one in policies.items()
        ]
        heads = ["", "clicks a decision", "of the informed (least)", "of the budget spent (least)", "clicks per EUR"]
        text += f"\n**{rounds} opportunities a user**\n\n{table(heads, rows)}"
    return text + measured_on(figures, "regret.py")


def kill_switch_table(figures: Figures) -> str:
    """How soon the kill switch is in force."""
    rows = [[name, f"{seconds:.1f} s"] for name, seconds in figures["seconds"].items()]
    return (
        f"{figures['reservations']:,} reservations in Redis expire at the moment at which the switch is thrown; "
        f"{figures['promised_seconds']:g} s are promised.\n\n"
        + table(["", "from the change of the file to the challenger's last answer"], rows)
        + measured_on(figures, "kill_switch.py")
    )


PAGES = {
    "loop": Page("The whole loop", "summary.md", loop_table),
    "loop_stages": Page("Where the time of the loop goes", "summary.md", stages_table),
    "train": Page("What training costs", "training.md", train_table),
    "aggregates": Page("What Feast's aggregates add to a model", "model.md", aggregates_table),
    "features": Page("The feature layer", "features.md", feature_tables),
    "serving": Page("The request path", "serving.md", serving_tables),
    "serving_before": Page("The request path, before and now", "serving.md", before_table),
    "decision_log": Page("How the decision log is stored", "serving.md", decision_log_table),
    "experiments": Page("How often a verdict is wrong", "../monitoring/README.md", experiment_tables),
    "adjustment": Page("What it brings to know users beforehand", "experiments.md", adjustment_tables),
    "futility": Page("How experiments end that may be given up", "experiments.md", futility_table),
    "shared_budget": Page("What sharing a budget does to an experiment", "experiments.md", shared_budget_table),
    "independence": Page("Whether experiments are independent of each other", "experiments.md", independence_table),
    "plan": Page("Whether an experiment finds what it was planned to find", "experiments.md", plan_table),
    "verdict": Page("What a verdict costs", "experiments.md", verdict_table),
    "regret": Page("What a policy earns with a budget", "evaluation.md", regret_tables),
    "search": Page("What a search for hyper-parameters gains", "training.md", search_table),
    "collect": Page("What collecting decisions costs", "data.md", collect_table),
    "generations": Page("Learning from own decisions, night after night", "evaluation.md", generations_table),
    "pacing": Page("Whether pacing treats arms alike", "policy.md", pacing_table),
    "shadow": Page("What the shadow costs the answered path", "experiments.md", shadow_table),
    "kill_switch": Page("How soon the kill switch is in force", "serving.md", kill_switch_table),
    "tracing": Page("What traces cost", "serving.md", tracing_table),
    "operator_switch": Page("How soon an object's kill switch is in force", "cluster.md", operator_switch_table),
    "drift": Page("How often the drift check is wrong", "../monitoring/README.md", rates_table),
    "drift_job": Page("What a drift check costs", "../monitoring/README.md", job_table),
    "monitoring": Page("How often the monitor is wrong, and how soon it is right", "monitoring.md", monitoring_tables),
    "soak": Page("Everything at once", "serving.md", soak_table),
    "cluster": Page("How soon a change is in force on a cluster", "cluster.md", cluster_table),
}

if __name__ == "__main__":
    main()
