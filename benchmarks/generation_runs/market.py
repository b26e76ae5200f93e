"""Simulates several nights in one market, in which models learn from the decisions of earlier models."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.generation_runs.night import Served, serve
from features.collect.training_log import add_decisions
from features.sequences.builder import build_windows
from mtorl.artifact.artifact import Artifact
from mtorl.baselines.lightgbm import fit_outcomes
from mtorl.evaluation.gate import gate_report
from mtorl.evaluation.head_metrics import LoggedTargets, evaluate
from mtorl.evaluation.offline import evaluate_offline
from mtorl.fitting.fit import fit_challenger
from mtorl.log.dataset import DatasetSpec
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.splits import split_of
from mtorl.log.touchpoints import DATASET_FILE, INGEST_FILE, LOG_FILE, fingerprint, write_log
from mtorl.network.training import TrainConfig
from mtorl.policy.decision import action_probabilities
from mtorl.simulator.market import CHANNELS
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch
from pipelines.loop.simulated_lift import play, policy_of

# Budget, as a share of the cost of an ad at every opportunity.
BUDGET_SHARE = 0.6
# Number of opportunities of each user.
ROUNDS = 6
# Share of the decisions that show an ad on a random channel.
EXPLORE = 0.05
SHUFFLED = {"a fifth shuffled": 0.2, "half shuffled": 0.5, "all shuffled": 1.0}
"""Faulty logs, each with the share of touchpoints whose outcomes are exchanged with those of other touchpoints."""
ATTACKS = ("half shuffled", "stale", "no channel", "a fifth shuffled", "all shuffled")
"""Faulty trainings; each night has one of them, in turn. stale: the first model is submitted again. no channel: one
channel is missing from the log."""


@dataclass(frozen=True)
class Market:
    """Settings of a simulated market, with `users` new users in the first log and in each night."""

    seed: int
    users: int
    epochs: int
    nights: int


def nights(market: Market, root: Path) -> Iterator[dict[str, Any]]:
    """Simulate all nights of a market; yields the figures of the first model, and then of each night.

    `worth` is the true value of the serving policy after the night. `auc` is the new model's AUC on the first log.
    """
    seed, users, number = market.seed, market.users, market.nights
    simulator = Simulator(SimulatorConfig(users=users * (number + 2), seed=seed))
    # Users of the first log, of each night, and for measuring policies. No model learns from the last group.
    coming = [simulator.user_ids[users * k : users * (k + 1)] for k in range(number + 2)]
    first = root / "first"
    log = simulator.log()
    log = log[log["user_id"].isin(set(coming[0]))]
    write_log_folder(log, simulator.spec, first)
    budget, price = BUDGET_SHARE * float(log["cost"].mean()), float(log["click"].mean() / log["cost"].mean())
    build_windows(first, root / "first-windows")
    config = TrainConfig(epochs=market.epochs, seed=seed)
    first_model = served = _fit(root / "first-windows", root / "model-00", config)
    # Undecided model that takes part in the next night's experiment.
    waiting: Artifact | None = None

    def worth(artifact: Artifact) -> float:
        policy = policy_of(artifact, None)
        return play(simulator, policy, coming[-1], ROUNDS, seed, budget, price, 2, newcomers=True).value

    def knows(artifact: Artifact) -> float:
        return auc_on_random_states(artifact, root / "first-windows", seed)

    served_worth = worth(served)
    yield {"night": 0, "worth": served_worth, "auc": knows(served)}
    truths = []
    for night in range(1, number + 1):
        arms = [served] if waiting is None else [served, waiting]
        for arm, policy in enumerate(arms):
            online = simulator.online(coming[night][arm :: len(arms)], ROUNDS, seed + night, newcomers=True)
            how = Served(policy, budget, price, EXPLORE)
            happened = serve(online, range(ROUNDS), how, 2 * night + arm, root / "lake")
            truths.append(happened.truth)
        windows = _windows(night, root)
        judge = Judge(windows, root / f"data-{night:02d}", config.seed, pd.concat(truths))
        second_look = None if waiting is None else judge.figures(waiting, served)
        if waiting is not None and second_look and second_look["promoted"]:
            served, served_worth = waiting, worth(waiting)
        candidate = _fit(windows, root / f"model-{night:02d}", config)
        row = judge.figures(candidate, served) | {"second_look": second_look}
        waiting = candidate if row["decision"] == "experiment" else None
        candidate_worth = worth(candidate)
        row |= {"night": night, "auc": knows(candidate), "candidate_worth": candidate_worth}
        row |= {"served_worth": served_worth, "spent_share": happened.spent_share, "entropy": happened.entropy}
        if row["promoted"]:
            served, served_worth = candidate, candidate_worth
        kind = ATTACKS[(night + seed) % len(ATTACKS)]
        faulty = first_model if kind == "stale" else _faulty(kind, night, root, config)
        row["attack"] = {"kind": kind} | judge.figures(faulty, served)
        if row["attack"]["promoted"]:
            served, served_worth = faulty, worth(faulty)
        elif row["attack"]["decision"] == "experiment":
            waiting = waiting or faulty
        yield row | {"worth": served_worth}


def write_log_folder(log: pd.DataFrame, spec: DatasetSpec, folder: Path) -> None:
    folder.mkdir()
    spec.save(folder / DATASET_FILE)
    write_log(log, folder / LOG_FILE, spec)
    (folder / INGEST_FILE).write_text(json.dumps({"rows": len(log), "fingerprint": fingerprint(log)}))


def auc_on_random_states(artifact: Artifact, windows: Path, seed: int) -> float:
    """Return the AUC of a model's reward predictions for the test users of the first log.

    No model chose the channels of this log, so the AUC of different nights is comparable.
    """
    table = WindowTable.load(windows)
    rows, batch = table.rows[table.is_in("test")], table.windows("test")
    logits_BC, reward_BC, _ = artifact.predict(batch)
    channel_B = pd.Index(CHANNELS).get_indexer(pd.Index(rows["channel"]))
    gain_B, cost_B = rows["click"].to_numpy(float), rows["cost"].to_numpy(float)
    label_B = artifact.encoder.reward(gain_B, cost_B)
    targets = LoggedTargets(channel_B, label_B, rows["user_id"].to_numpy(), positive_B=gain_B > 0)
    return float(evaluate(logits_BC, reward_BC, targets, seed)["reward_auc"])


def _windows(night: int, root: Path) -> Path:
    data, windows = root / f"data-{night:02d}", root / f"windows-{night:02d}"
    shutil.copytree(root / "first", data)
    add_decisions(root / "lake", data)
    build_windows(data, windows)
    return windows


def _fit(windows: Path, model: Path, config: TrainConfig) -> Artifact:
    artifact = fit_challenger(str(windows), str(model), config, BUDGET_SHARE)
    assert artifact is not None
    return artifact


def _faulty(kind: str, night: int, root: Path, config: TrainConfig) -> Artifact:
    """Train a model on a log with a fault. The test users, on whom the gate evaluates, have correct rows."""
    data, windows = root / f"faulty-data-{night:02d}", root / f"faulty-windows-{night:02d}"
    shutil.copytree(root / f"data-{night:02d}", data)
    table = pq.read_table(data / LOG_FILE)
    log, random = table.to_pandas(), np.random.default_rng([night, config.seed])
    taught_B = split_of(log["user_id"]) != "test"
    if kind in SHUFFLED:
        outcomes = ["click", "conversion", "revenue"]
        rows = np.flatnonzero(taught_B & (random.random(len(log)) < SHUFFLED[kind]))
        log.loc[rows, outcomes] = log.loc[random.permutation(rows), outcomes].to_numpy()
    else:
        missing = CHANNELS[random.integers(len(CHANNELS))]
        log = log[~(taught_B & (log["channel"] == missing).to_numpy())]
    pq.write_table(pa.Table.from_pandas(log, table.schema, preserve_index=False), data / LOG_FILE)
    build_windows(data, windows)
    return _fit(windows, root / f"faulty-{night:02d}", config)


@dataclass(frozen=True)
class Judge:
    """Applies the gate after a night, and compares the gate's estimates with the true values.

    Attributes:
        windows: Windows folder of the night.
        data: Folder of the log, with all decisions so far.
        truth: True click probability of every channel for each decision, by decision_id.
    """

    windows: Path
    data: Path
    seed: int
    truth: pd.DataFrame

    def figures(self, candidate: Artifact, served: Artifact) -> dict[str, Any]:
        """Return the gate's decision about a candidate and its estimates, with the true values."""
        made = evaluate_offline(
            str(self.windows), str(candidate.folder), str(served.folder), BUDGET_SHARE, self.seed, fit_outcomes
        )
        value = json.loads(json.dumps(made["value"]))
        report = gate_report(made | {"value": value})
        decided = pd.read_parquet(self.data / OPPORTUNITIES_FILE)
        test, budget = decided[decided["split"] == "test"], value["budget_per_opportunity"]
        true = _true_value(candidate, made["prices"]["challenger"], test, self.truth, budget)
        true_difference = true - _true_value(served, made["prices"]["incumbent"], test, self.truth, budget)
        low, high = value["difference_ci"]
        return {
            "decision": report.decision,
            "promoted": report.decision == "promote",
            "reason": report.reason,
            "estimate": value["challenger"],
            "truth": true,
            "covered": value["challenger_ci"][0] <= true <= value["challenger_ci"][1],
            "difference": value["difference"],
            "lower_bound": low,
            "true_difference": true_difference,
            "difference_covered": low <= true_difference <= high,
            **{name: value[name]["challenger"] for name in ("impossible", "forecast", "mean_weight")},
        }


def _true_value(artifact: Artifact, price: float, decided: pd.DataFrame, truth: pd.DataFrame, budget: float) -> float:
    """Return a policy's true clicks per decision at the states of the log, reduced if the policy exceeds the budget."""
    batch = WindowBatch.from_instances([json.loads(text) for text in decided["features"]], artifact.spec)
    forecast = artifact.forecast(batch)
    probs_BC, expose_BC = action_probabilities(forecast, replace(artifact.policy, price=price))
    click_BC = truth.set_index("decision_id").loc[decided["decision_id"], list(CHANNELS)].to_numpy()
    exposing_BC = probs_BC * expose_BC
    gain, cost = (exposing_BC * click_BC).sum(axis=1).mean(), (exposing_BC * forecast.cost_BC).sum(axis=1).mean()
    return float(gain * min(1.0, budget / cost)) if cost else 0.0
