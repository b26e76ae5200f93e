"""From a windows folder to an artifact: the incumbent and the challenger, both fitted on training users only."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtorl import artifact, budget, progress
from mtorl.artifact import Artifact
from mtorl.baselines import channel_frequency
from mtorl.decision import PolicyParams, action_probabilities, utility_scale
from mtorl.evaluation import evaluate
from mtorl.table import WindowTable
from mtorl.threads import one_thread
from mtorl.train import TrainConfig, train
from mtorl.windows import Encoder

ADVANTAGE_WEIGHT = 3.0  # beta of the challenger: e^3 in the odds for one utility_scale of extra utility
EXPLORATION = 0.05  # epsilon of the challenger: keeps every later off-policy estimate possible


def fit_incumbent(windows: str, out: str) -> Artifact:
    """Fit channel frequencies by segment and save them as an artifact.

    Args:
        windows: Windows folder.
        out: Folder of the artifact.
    """
    table = WindowTable.load(windows)
    batch = table.tiles("train")
    encoder = Encoder.fit(batch, table.spec)
    network = channel_frequency.fit(batch, encoder.targets(batch), encoder)
    return _save(out, table, encoder, network, channel_frequency.POLICY, "channel-frequency", {})


def fit_challenger(windows: str, out: str, epochs: int, seed: int, budget_share: float) -> Artifact:
    """Train MTORL, price the budget on validation users, and save the policy as an artifact.

    Args:
        windows: Windows folder.
        out: Folder of the artifact.
        epochs: Most epochs.
        seed: Seed of initialisation and shuffling.
        budget_share: Budget as a share of what always exposing would cost; sets the price of the budget.
    """
    table = WindowTable.load(windows)
    batch, held_out = table.tiles("train"), table.tiles("val")
    encoder = Encoder.fit(batch, table.spec)
    x_BTD, _ = encoder.encode(batch)
    val_x_BTD, _ = encoder.encode(held_out)

    def on_epoch(row: dict[str, float]) -> None:
        progress.report(row["epoch"], epochs, f"validation loss {row['val_loss']:.4f}")

    with one_thread():
        result = train(
            x_BTD,
            encoder.targets(batch),
            val_x_BTD,
            encoder.targets(held_out),
            TrainConfig(epochs=epochs, seed=seed),
            on_epoch,
            channels=len(table.spec.channels),
        )
    logits_BC, reward_BC, cost_BC = artifact.run(result.model, *encoder.encode(table.windows("val")))
    policy = price_policy(
        logits_BC,
        encoder.unreward(reward_BC, cost_BC),
        cost_BC,
        budget_share * float(table.rows["cost"][table.is_in("val")].mean()),
    )
    metrics = {
        **_validation_metrics(table, encoder, logits_BC, reward_BC, seed),
        "seconds": result.seconds,
        "best_epoch": result.best_epoch,
        "best_val_loss": result.history[result.best_epoch - 1]["val_loss"],
        "epochs": len(result.history),
        "history": result.history,
    }
    return _save(out, table, encoder, result.model, policy, "mtorl", metrics)


def price_policy(
    logits_BC: NDArray[Any], gain_BC: NDArray[Any], cost_BC: NDArray[Any], budget_per_opportunity: float
) -> PolicyParams:
    """Set the challenger's parameters so that its expected spend meets a budget.

    Args:
        logits_BC: Action head on validation rows.
        gain_BC: Expected gain of each channel.
        cost_BC: Expected cost of each channel, currency units.
        budget_per_opportunity: Currency units that may be spent per opportunity on average.

    Returns:
        Parameters with the smallest price that the budget allows; 0 when the budget does not bind.
    """
    scale = utility_scale(gain_BC, cost_BC)

    def at(price: float) -> PolicyParams:
        return PolicyParams(ADVANTAGE_WEIGHT, EXPLORATION, price, scale)

    def spend(price: float) -> float:
        probs_BC, expose_BC = action_probabilities(logits_BC, gain_BC, cost_BC, at(price))
        return float((probs_BC * expose_BC * cost_BC).sum(axis=1).mean())

    return at(budget.solve_price(spend, budget_per_opportunity))


def _validation_metrics(
    table: WindowTable, encoder: Encoder, logits_BC: ArrayLike, reward_BC: ArrayLike, seed: int
) -> dict[str, Any]:
    rows = table.rows[table.is_in("val")]
    channel_B: NDArray[np.int64] = np.array([table.spec.channels.index(name) for name in rows["channel"]])
    gain_B = rows[table.spec.reward.gain].to_numpy(float)
    label_B = encoder.reward(gain_B, rows["cost"].to_numpy(float))
    users_B = rows["user_id"].to_numpy()
    return evaluate(logits_BC, reward_BC, channel_B, label_B, users_B, seed, positive_B=gain_B > 0)


def _save(
    out: str,
    table: WindowTable,
    encoder: Encoder,
    network: Any,
    policy: PolicyParams,
    kind: str,
    metrics: dict[str, Any],
) -> Artifact:
    rows, channels = table.rows[table.is_in("train")], table.spec.channels
    dearest = rows.groupby("channel")["cost"].max()
    return artifact.save(
        out,
        name="challenger" if kind == "mtorl" else "incumbent",
        kind=kind,
        network=network,
        encoder=encoder,
        spec=table.spec,
        policy=policy,
        reference=table.reference(),
        metrics=metrics,
        # A channel that training never saw is as dear as the dearest: a cap must not be too small.
        cost_cap={name: float(dearest.get(name, dearest.max())) for name in channels},
        default_channel=str(rows["channel"].mode()[0]),
        data_fingerprint=table.fingerprint,
        git_revision=_git_revision(),
    )


def _git_revision() -> str:
    """Commit of the code: from the checkout, else from the image's MTORL_REVISION."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("MTORL_REVISION", "unknown")
    return found.stdout.strip()
