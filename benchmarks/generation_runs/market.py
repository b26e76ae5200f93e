"""Nights in a row in one market: serve, collect, train, gate, promote; and the truth about each step."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.generation_runs.night import Served, serve
from features.collect.training_log import add_decisions
from features.sequences.builder import build_windows
from mtorl.artifact.artifact import Artifact
from mtorl.baselines.lightgbm import fit_outcomes
from mtorl.evaluation.gate import gate
from mtorl.evaluation.head_metrics import LoggedTargets, evaluate
from mtorl.evaluation.offline import evaluate_offline
from mtorl.fitting.fit import fit_challenger, fit_incumbent
from mtorl.log.dataset import DatasetSpec
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import DATASET_FILE, INGEST_FILE, LOG_FILE, fingerprint, write_log
from mtorl.network.training import TrainConfig
from mtorl.policy.decision import Forecast, action_probabilities
from mtorl.simulator.market import CHANNELS
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch
from pipelines.loop.simulated_lift import play, policy_of

BUDGET_SHARE = 0.6  # as in `make run`
ROUNDS = 6  # opportunities of a user
EXPLORE = 0.05  # share of the decisions


def nights(seed: int, users: int, epochs: int, number: int, root: Path) -> Iterator[dict[str, Any]]:
    """Figures of the first model, and of each of `number` nights; newcomers all: `users` a night and in the first log.

    Worth is the served policy's value at equal money; AUC is of the new model's reward head on random states; the
    gate's figures stand beside the new model's value at the very states of the log.
    """
    simulator = Simulator(SimulatorConfig(users=users * (number + 2), seed=seed))
    # Users of the first log, of each night, and those with whom a model's worth is measured, whom no model learns from.
    coming = [simulator.user_ids[users * k : users * (k + 1)] for k in range(number + 2)]
    first = root / "first"
    log = simulator.log()
    log = log[log["user_id"].isin(set(coming[0]))]
    write_log_folder(log, simulator.spec, first)
    budget, price = BUDGET_SHARE * float(log["cost"].mean()), float(log["click"].mean() / log["cost"].mean())
    build_windows(first, root / "first-windows")
    config = TrainConfig(epochs=epochs, seed=seed)
    served = fit_challenger(str(root / "first-windows"), str(root / "model-00"), config, BUDGET_SHARE)
    fit_incumbent(str(root / "first-windows"), str(root / "incumbent"))
    assert served is not None

    def worth(artifact: Artifact) -> float:
        policy = policy_of(artifact, None)
        return play(simulator, policy, coming[-1], ROUNDS, seed, budget, price, 2, newcomers=True).value

    def knows(artifact: Artifact) -> float:
        return auc_on_random_states(artifact, root / "first-windows", seed)

    served_worth = worth(served)
    yield {"night": 0, "worth": served_worth, "auc": knows(served)}
    truths = []
    for night in range(1, number + 1):
        online = simulator.online(coming[night], ROUNDS, seed + night, newcomers=True)
        how = Served(served, budget, price, EXPLORE)
        happened = serve(online, range(ROUNDS), how, night, root / "lake")
        truths.append(happened.truth)
        candidate, value, true_value = _train(night, root, served, config, pd.concat(truths))
        decision, reason = gate(value)
        candidate_worth = worth(candidate)
        low, high = value["difference_ci"]
        yield {
            "night": night,
            "auc": knows(candidate),
            "candidate_worth": candidate_worth,
            "served_worth": served_worth,
            "worth": candidate_worth if decision == "promote" else served_worth,
            "promoted": decision == "promote",
            "reason": reason,
            "estimate": value["challenger"],
            "truth": true_value["challenger"],
            "covered": value["challenger_ci"][0] <= true_value["challenger"] <= value["challenger_ci"][1],
            "difference": value["difference"],
            "lower_bound": low,
            "true_difference": true_value["challenger"] - true_value["incumbent"],
            "difference_covered": low <= true_value["challenger"] - true_value["incumbent"] <= high,
            "impossible": value["impossible"]["challenger"],
            "forecast": value["forecast"]["challenger"],
            "mean_weight": value["mean_weight"]["challenger"],
            "spent_share": happened.spent_share,
            "entropy": happened.entropy,
        }
        if decision == "promote":
            served, served_worth = candidate, candidate_worth


def write_log_folder(log: pd.DataFrame, spec: DatasetSpec, folder: Path) -> None:
    """A log's folder, as ingestion leaves it."""
    folder.mkdir()
    spec.save(folder / DATASET_FILE)
    write_log(log, folder / LOG_FILE, spec)
    (folder / INGEST_FILE).write_text(json.dumps({"rows": len(log), "fingerprint": fingerprint(log)}))


def auc_on_random_states(artifact: Artifact, windows: Path, seed: int) -> float:
    """AUC of the reward head on test users of the first log, whose channels were drawn widely."""
    table = WindowTable.load(windows)
    rows, batch = table.rows[table.is_in("test")], table.windows("test")
    logits_BC, reward_BC, _ = artifact.predict(batch)
    channel_B = pd.Index(CHANNELS).get_indexer(pd.Index(rows["channel"]))
    gain_B, cost_B = rows["click"].to_numpy(float), rows["cost"].to_numpy(float)
    label_B = artifact.encoder.reward(gain_B, cost_B)
    targets = LoggedTargets(channel_B, label_B, rows["user_id"].to_numpy(), positive_B=gain_B > 0)
    return float(evaluate(logits_BC, reward_BC, targets, seed)["reward_auc"])


def _train(
    night: int, root: Path, served: Artifact, config: TrainConfig, truth: pd.DataFrame
) -> tuple[Artifact, dict[str, Any], dict[str, float]]:
    """The next model; what the evaluation says of it and of the one that serves; and what is true at those states."""
    data, windows = root / f"data-{night:02d}", root / f"windows-{night:02d}"
    shutil.copytree(root / "first", data)
    add_decisions(root / "lake", data)
    decided = pd.read_parquet(data / OPPORTUNITIES_FILE)
    build_windows(data, windows)
    candidate = fit_challenger(str(windows), str(root / f"model-{night:02d}"), config, BUDGET_SHARE)
    assert candidate is not None
    evaluation = evaluate_offline(
        str(windows), str(candidate.folder), str(served.folder), BUDGET_SHARE, config.seed, fit_outcomes
    )
    value = json.loads(json.dumps(evaluation["value"]))
    test = decided[decided["split"] == "test"]
    true_value = {
        name: _true_value(artifact, evaluation["prices"][name], test, truth, value["budget_per_opportunity"])
        for name, artifact in (("challenger", candidate), ("incumbent", served))
    }
    return candidate, value, true_value


def _true_value(artifact: Artifact, price: float, decided: pd.DataFrame, truth: pd.DataFrame, budget: float) -> float:
    """Expected clicks per decision of a policy at the states of the log, thinned to a budget."""
    batch = WindowBatch.from_instances([json.loads(text) for text in decided["features"]], artifact.spec)
    logits_BC, reward_BC, cost_BC = artifact.predict(batch)
    gain_BC = artifact.encoder.unreward(reward_BC, cost_BC)
    params = replace(artifact.policy, price=price)
    probs_BC, expose_BC = action_probabilities(Forecast(logits_BC, gain_BC, cost_BC), params)
    click_BC = truth.set_index("decision_id").loc[decided["decision_id"], list(CHANNELS)].to_numpy()
    exposing_BC = probs_BC * expose_BC
    gain, cost = (exposing_BC * click_BC).sum(axis=1).mean(), (exposing_BC * cost_BC).sum(axis=1).mean()
    return float(gain * min(1.0, budget / cost)) if cost else 0.0
