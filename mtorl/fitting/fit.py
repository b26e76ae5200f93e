"""From a windows folder to an artifact: the incumbent and the challenger, both fitted on training users only.

The challenger may be trained by several processes (`mtorl.network.parallel`); the one that leads saves the artifact.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtorl.artifact import artifact
from mtorl.artifact.artifact import Artifact
from mtorl.artifact.training_users import Fingerprints, fingerprints
from mtorl.baselines import channel_frequency, lightgbm
from mtorl.evaluation.head_metrics import evaluate
from mtorl.log.dataset import DatasetSpec
from mtorl.network import parallel
from mtorl.network.calibration import Calibration, calibrate
from mtorl.network.ensemble import MEMBERS, Ensemble, checkpoint_files, train_ensemble
from mtorl.network.training import TrainConfig
from mtorl.policy import price as budget
from mtorl.policy.decision import PolicyParams, action_probabilities, utility_scale
from mtorl.runtime import progress
from mtorl.runtime.threads import one_thread
from mtorl.window.encoder import Encoder
from mtorl.window.labels import labels
from mtorl.window.loader import FolderWindows, tiles
from mtorl.window.table import WindowTable, shards
from mtorl.window.window import WindowBatch

ADVANTAGE_WEIGHT = 3.0  # beta of the challenger: e^3 in the odds for one utility_scale of extra utility
EXPLORATION = 0.05  # epsilon of the challenger: keeps every later off-policy estimate possible


def fit_incumbent(windows: str, out: str) -> Artifact:
    """Fit channel frequencies by segment and save them as an artifact.

    Args:
        windows: Windows folder.
        out: Folder of the artifact.
    """
    known = _Training.of(windows)
    network = channel_frequency.fit((tiles(windows, "train", file) for file in shards(windows)), known.encoder)
    return _save(out, known, network, channel_frequency.POLICY, "channel-frequency", {})


def fit_challenger(
    windows: str,
    out: str,
    config: TrainConfig,
    budget_share: float,
    checkpoint: str = "",
    log: str = "",
) -> Artifact | None:
    """Train MTORL, calibrate it and price the budget on validation users, and save the policy as an artifact.

    Beside it lies LightGBM, a yardstick for `mtorl evaluate`: of the same users or, of several shards, the first one's.

    Args:
        windows: Windows folder.
        out: Folder of the artifact.
        config: How to train.
        budget_share: Budget as a share of what always exposing would cost; sets the price of the budget.
        checkpoint: Start of the names of files that a killed training goes on from; "" for none.
        log: Folder for the metrics of each epoch, for TensorBoard; "" for none.

    Returns:
        The artifact; None in a process that does not lead.
    """
    if not 0 < budget_share < math.inf:
        raise ValueError(f"budget_share must be a positive number, got {budget_share}")
    known = _Training.of(windows)
    encoder = known.encoder
    with one_thread(), parallel.joined() as group, _metrics(log if group.leads else "") as write:

        def on_epoch(member: int, row: dict[str, float]) -> None:
            done = member * config.epochs + row["epoch"]
            progress.report(done, MEMBERS * config.epochs, f"validation loss {row['val_loss']:.4f}")
            write(member, row)

        trained = train_ensemble(
            FolderWindows(windows, "train", encoder),
            FolderWindows(windows, "val", encoder),
            config,
            on_epoch,
            channels=len(known.spec.channels),
            resume=Path(checkpoint) if checkpoint else None,
            identity={"data": known.fingerprint, "windows": known.reading},
            group=group,
        )
    if not group.leads:
        return None
    val = WindowTable.load(windows, "val")
    batch, network = val.windows("val", targets=True), trained.ensemble
    calibration = calibrate_on(network, encoder, batch)
    logits_BC, reward_BC, cost_BC = artifact.run(network, encoder, batch)
    seen, gain_B = labels(batch, encoder), val.rows[known.spec.reward.gain].to_numpy(float)
    spend = budget_share * float(seen.cost_B.mean())
    policy = price_policy(logits_BC, encoder.unreward(reward_BC, cost_BC), cost_BC, spend)
    users_B = val.rows["user_id"].to_numpy()
    first = trained.members[0]
    metrics = {
        **evaluate(logits_BC, reward_BC, seen.channel_B, seen.reward_B, users_B, config.seed, positive_B=gain_B > 0),
        "calibration": calibration._asdict(),
        "measured_on": "validation users, on whom training also stopped and the heads were calibrated",
        "seconds": trained.seconds,
        # Of the first member; the others differ in their seed.
        "best_epoch": first.best_epoch,
        "best_val_loss": first.best_val_loss,
        "epochs": len(first.history),
        "history": first.history,
        "members": [{"best_epoch": m.best_epoch, "best_val_loss": m.best_val_loss} for m in trained.members],
    }
    progress.report(1, 1, "LightGBM, to compare with")
    train_windows = WindowTable.load(windows, "train", known.first).windows("train", targets=True)
    trees = lightgbm.fit(train_windows, batch, encoder, config.seed)
    made = _save(out, known, network, policy, "mtorl", metrics, trees.to_dict())
    if checkpoint:
        for file in checkpoint_files(Path(checkpoint), MEMBERS, group.size):
            file.unlink(missing_ok=True)
    return made


def calibrate_on(network: Ensemble, encoder: Encoder, batch: WindowBatch) -> Calibration:
    """Calibrate a network on held-out windows with their targets, one for each touchpoint."""
    logits_BC, reward_BC, _ = artifact.run(network, encoder, batch)
    seen = labels(batch, encoder)
    logged = np.arange(len(batch)), seen.channel_B
    found = calibrate(logits_BC, reward_BC[logged], seen.channel_B, seen.reward_B)
    network.calibrate(*found)
    return found


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
    if not cost_BC.any():  # nothing costs anything: no budget binds
        return PolicyParams(ADVANTAGE_WEIGHT, EXPLORATION, 0.0, scale)

    def at(price: float) -> PolicyParams:
        return PolicyParams(ADVANTAGE_WEIGHT, EXPLORATION, price, scale)

    def spend(price: float) -> float:
        probs_BC, expose_BC = action_probabilities(logits_BC, gain_BC, cost_BC, at(price))
        return float((probs_BC * expose_BC * cost_BC).sum(axis=1).mean())

    return at(budget.solve_price(spend, budget_per_opportunity))


@dataclass
class _Training:
    """What an artifact says of its training users, gathered shard by shard."""

    spec: DatasetSpec
    fingerprint: str
    reading: str  # what makes inputs and labels of the data: a digest of the description and the encoder
    encoder: Encoder
    first: str  # shard with training users: a random sample of them
    users: Fingerprints
    uses: Counter[str]  # of each channel
    dearest: dict[str, float]  # exposure of each channel
    reference: pd.DataFrame

    @classmethod
    def of(cls, windows: str) -> _Training:
        uses: Counter[str] = Counter()
        dearest: dict[str, float] = {}
        references, users = [], []
        encoder, first = None, ""
        for file in shards(windows):
            part = WindowTable.load(windows, file=file)
            rows = part.rows[part.is_in("train")]
            # Validation users have a part in it as well: in when it stops, and in what its probabilities mean.
            users.append(fingerprints(part.rows.loc[~part.is_in("test"), "user_id"].unique()))
            if not len(rows):
                continue
            # A shard is a random sample of the users, and up to millions of rows: enough for means and vocabularies.
            if encoder is None:
                encoder, first = Encoder.fit(part.tiles("train"), part.spec), file
            uses.update(rows["channel"])
            for name, cost in rows.groupby("channel")["cost"].max().items():
                dearest[str(name)] = max(float(cost), dearest.get(str(name), 0.0))
            references.append(part.reference())
        if encoder is None:
            raise ValueError("no training windows: the log has too few users")
        reference = pd.concat(references, ignore_index=True)
        everyone = np.unique(np.concatenate(users))
        reading = json.dumps([part.spec.to_dict(), encoder.to_dict()], sort_keys=True)
        digest = hashlib.sha256(reading.encode()).hexdigest()
        return cls(part.spec, part.fingerprint, digest, encoder, first, everyone, uses, dearest, reference)


@contextmanager
def _metrics(folder: str) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Write each epoch's row where TensorBoard reads it, a run for each member."""
    if not folder:
        yield lambda member, row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writers: dict[int, SummaryWriter] = {}

    def write(member: int, row: dict[str, float]) -> None:
        if member not in writers:
            writers[member] = SummaryWriter(f"{folder}/member-{member}")
        for name, value in row.items():
            if name != "epoch":
                writers[member].add_scalar(name.replace("_", "/", 1), value, int(row["epoch"]))
        writers[member].flush()

    try:
        yield write
    finally:
        for writer in writers.values():
            writer.close()


def _save(
    out: str,
    known: _Training,
    network: Any,
    policy: PolicyParams,
    kind: str,
    metrics: dict[str, Any],
    yardstick: dict[str, Any] | None = None,
) -> Artifact:
    return artifact.save(
        out,
        name="challenger" if kind == "mtorl" else "incumbent",
        kind=kind,
        network=network,
        encoder=known.encoder,
        spec=known.spec,
        policy=policy,
        reference=known.reference,
        metrics=metrics,
        # A channel that training never saw is as dear as the dearest: a cap must not be too small.
        cost_cap={name: known.dearest.get(name, max(known.dearest.values())) for name in known.spec.channels},
        # The most used one; of several, the first in alphabetical order.
        default_channel=max(sorted(known.uses), key=known.uses.__getitem__),
        data_fingerprint=known.fingerprint,
        git_revision=_git_revision(),
        training_users=known.users,
        yardstick=yardstick,
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
