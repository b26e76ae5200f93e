"""Trains the incumbent and the challenger on the training users of a windows folder, and saves them as artifacts."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from mtorl.arrays import Floats
from mtorl.artifact.artifact import Artifact, forecast_of, load
from mtorl.artifact.saving import TrainedPolicy, save
from mtorl.baselines import channel_frequency, lightgbm
from mtorl.drift.reference import MIN_USERS, sample_users, stretches
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.evaluation.head_metrics import LoggedTargets, evaluate
from mtorl.fitting.future import CLEAR, fit_future, foresight
from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec
from mtorl.log.messages import NO_COST
from mtorl.log.opportunities import Opportunities, contexts
from mtorl.log.propensity import channel_means
from mtorl.log.splits import Fingerprints, fingerprints
from mtorl.log.touchpoints import DATASET_FILE
from mtorl.network import parallel
from mtorl.network.calibration import calibrate_ensemble
from mtorl.network.checkpoint import Checkpoint
from mtorl.network.ensemble import MEMBERS, Ensemble, Trained, train_ensemble
from mtorl.network.messages import NO_WINDOWS
from mtorl.network.parallel import one_thread, processors
from mtorl.network.predictor import outputs_of, predict
from mtorl.network.training import TrainConfig
from mtorl.network.user_state import fit_state_distance
from mtorl.policy.decision import Forecast, PolicyParams, utility_scale
from mtorl.policy.price import policy_price
from mtorl.runtime import progress
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing
from mtorl.window.encoder import Encoder, labels
from mtorl.window.loader import FolderWindows, TrainingWindows, tiles
from mtorl.window.on_demand import Windows, from_texts
from mtorl.window.table import MOST_HELD_OUT, WindowTable, shards, touchpoints_per_user

if TYPE_CHECKING:
    from torch import nn


# Mean number of touchpoints per user in the drift reference. Fewer would hide how similar one user's rows are.
REFERENCE_TOUCHPOINTS = 5


@dataclass(frozen=True)
class TrainingSummary:
    """Facts about the training users of a windows folder, collected shard by shard to limit memory."""

    spec: DatasetSpec
    fingerprint: str  # fingerprint of the log from which the windows were built
    # Hash of the data set description and the encoder. A training continues only from a checkpoint with the same hash.
    encoding_digest: str
    encoder: Encoder
    first_shard: str  # first shard that contains training users
    users: Fingerprints
    channel_uses: Counter[str]
    highest_cost: dict[str, float]  # channel -> highest cost of an exposure among training users

    @classmethod
    def of(cls, windows: str) -> TrainingSummary:
        """Collect the facts from a windows folder.

        Raises:
            WindowError: The folder contains no training users.
        """
        uses: Counter[str] = Counter()
        highest: dict[str, float] = {}
        users, encoder, first = [], None, ""
        for file in shards(windows):
            table = WindowTable.load(windows, file=file)
            rows = table.rows[table.is_in("train")]
            # Validation users count as training users, because early stopping and calibration depend on them.
            users.append(fingerprints(table.rows.loc[~table.is_in("test"), "user_id"].unique()))
            if not len(rows):
                continue
            # The first shard is a large enough random sample of the users to fit the encoder.
            if encoder is None:
                encoder, first = Encoder.fit(table.tiles("train"), table.spec), file
            uses.update(rows["channel"])
            for name, cost in rows.groupby("channel")["cost"].max().items():
                highest[str(name)] = max(float(cost), highest.get(str(name), 0.0))
        if encoder is None:
            raise WindowError(NO_WINDOWS(which="training"))
        encoding = json.dumps([table.spec.to_dict(), encoder.to_dict()], sort_keys=True)
        return cls(
            spec=table.spec,
            fingerprint=table.fingerprint,
            encoding_digest=hashlib.sha256(encoding.encode()).hexdigest(),
            encoder=encoder,
            first_shard=first,
            users=np.unique(np.concatenate(users)),
            channel_uses=uses,
            highest_cost=highest,
        )

    def policy(
        self,
        name: str,
        kind: str,
        network: nn.Module,
        params: PolicyParams,
        metrics: Mapping[str, Any],
        reference: pd.DataFrame,
    ) -> TrainedPolicy:
        """Return the content of an artifact, including measured drift thresholds, for a trained policy."""
        # A channel without training data gets the highest cost of all channels, because a cap must not be too low.
        highest = max(self.highest_cost.values())
        return TrainedPolicy(
            name=name,
            kind=kind,
            network=network,
            encoder=self.encoder,
            spec=self.spec,
            params=params,
            cost_cap={channel: self.highest_cost.get(channel, highest) for channel in self.spec.channels},
            # The most used channel; of equally used channels, the first in the alphabet.
            default_channel=max(sorted(self.channel_uses), key=self.channel_uses.__getitem__),
            metrics=metrics,
            reference=reference,
            thresholds=drift_thresholds(reference, self.spec),
            training_users=self.users,
            data_fingerprint=self.fingerprint,
            git_revision=git_revision(),
        )


def drift_reference(windows: str, spec: DatasetSpec) -> pd.DataFrame:
    """Sample the rows of training users with which drift tests compare requests in production."""
    if (decided := contexts(windows, spec, "train")) is not None:
        # Like requests, decisions include those without an exposure, so prefer them to touchpoints.
        share = min(1.0, REFERENCE_TOUCHPOINTS * decided["user_id"].nunique() / len(decided))
        return sample_users(decided[stretches(decided["user_id"], share)].reset_index(drop=True))
    share = min(1.0, REFERENCE_TOUCHPOINTS / touchpoints_per_user(windows))
    reference = pd.DataFrame()
    for file in shards(windows):
        # A hash selects the users, so sampling after each shard gives the same users as sampling once.
        rows = WindowTable.load(windows, "train", file).reference(share)
        reference = sample_users(pd.concat([reference, rows], ignore_index=True))
    return reference


def drift_thresholds(reference: pd.DataFrame, spec: DatasetSpec) -> ThresholdGrid | None:
    """Measure the thresholds of the drift tests on a reference; None if the reference has too few users."""
    if reference["user_id"].nunique() < 2 * MIN_USERS:
        return None
    columns = (*spec.context, *spec.static)  # a reference of decisions has no static columns
    return ThresholdGrid.measure(reference, {c.name: c.kind for c in columns if c.name in reference})


def git_revision() -> str:
    """Return the Git commit of the code or, outside a checkout, the environment variable MTORL_REVISION."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("MTORL_REVISION", "unknown")


ADVANTAGE_WEIGHT = 5.0  # beta: if the utility of a channel rises by `utility_scale`, its odds are multiplied by e^5
EXPLORATION = 0.05  # epsilon: share of random decisions, which off-policy estimates need
_Result = TypeVar("_Result")


def fit_incumbent(windows: str, out: str) -> Artifact:
    """Save the frequency of each channel in each segment of users as an artifact."""
    summary = TrainingSummary.of(windows)
    network = channel_frequency.fit((tiles(windows, "train", file) for file in shards(windows)), summary.encoder)
    params, reference = channel_frequency.POLICY, drift_reference(windows, summary.spec)
    return save(out, summary.policy("incumbent", "channel-frequency", network, params, {}, reference))


def take_incumbent(windows: str, served: str, out: str) -> Artifact:
    """Copy the artifact of the serving policy, so that the challenger can be compared with it.

    Raises:
        WindowError: The artifact has other columns or channels than the windows.
    """
    artifact, spec = load(Path(served)), DatasetSpec.load(Path(windows) / DATASET_FILE)
    theirs, ours = (one.model_dump(exclude={"name", "description"}) for one in (artifact.spec, spec))
    if differ := [name for name in ours if ours[name] != theirs[name]]:
        error = WindowError(
            f"the serving incumbent, {served}, was trained on another data set description: {', '.join(differ)} "
            "differ. To train on this description, compare with the channel frequencies (lake: empty)"
        )
        if more := [name for name in spec.channels if name not in artifact.spec.channels]:
            error.add_note(f"To add a channel ({', '.join(more)}) to serving, see docs/data.md, A new channel")
        raise error
    with replacing(Path(out)) as unfinished:
        shutil.copytree(served, unfinished)
    return load(Path(out))


def fit_challenger(
    windows: str, out: str, config: TrainConfig, budget_share: float, checkpoint: str = "", log: str = ""
) -> Artifact | None:
    """Train MTORL on the training users, calibrate it and compute its price on the validation users, and save it.

    Args:
        budget_share: Budget of the policy, as a fraction of the cost of always exposing.
        checkpoint: Prefix of the checkpoint files, from which an interrupted training continues; "" for none.
        log: Folder for TensorBoard metrics; "" for none.

    Returns:
        The artifact in the leading process, None in all other processes.

    Raises:
        InputError: `budget_share` is not a positive number, or every exposure costs 0.
    """
    if not 0 < budget_share < math.inf:
        raise InputError(f"budget_share must be a positive number, got {budget_share}")
    summary = TrainingSummary.of(windows)
    if not any(summary.highest_cost.values()):
        raise InputError(NO_COST(column="cost"))
    identity = {"data": summary.fingerprint, "windows": summary.encoding_digest}
    resume = Checkpoint(Path(checkpoint), identity) if checkpoint else None
    with one_thread(), parallel.joined() as group, _epoch_log(log if group.leads else "") as write:
        # Train the networks in parallel only on CPUs: on a GPU, they would slow each other down.
        at_once = group.size == 1 and parallel.device_of(config.device).type == "cpu" and processors() >= MEMBERS
        epochs: dict[int, float] = {}

        def on_epoch(member: int, row: dict[str, float]) -> None:
            epochs[member] = row["epoch"]
            # Earlier networks may have stopped early, so count all of their epochs.
            if not at_once:
                epochs.update(dict.fromkeys(range(member), config.epochs))
            progress.report(sum(epochs.values()), MEMBERS * config.epochs, f"validation loss {row['val_loss']:.4f}")
            write(member, row)

        data = TrainingWindows(
            FolderWindows(windows, "train", summary.encoder),
            FolderWindows(windows, "val", summary.encoder),
            channels=len(summary.spec.channels),
        )
        trained = train_ensemble(data, config, on_epoch, resume=resume, group=group, at_once=at_once)
    if not group.leads:
        return None
    reference = drift_reference(windows, summary.spec)
    val = WindowTable.load(windows, "val", most=MOST_HELD_OUT)
    opportunities = Opportunities.load(windows, summary.spec, "val")
    progress.report(1, 1, "LightGBM, to compare with")
    trained_on = WindowTable.load(windows, "train", summary.first_shard, MOST_HELD_OUT)
    train_windows, val_windows = trained_on.on_demand("train", targets=True), val.on_demand("val", targets=True)
    users_B, mean_C = val.rows["user_id"].to_numpy(), _channel_means(trained_on, val, summary)

    def fit_trees() -> lightgbm.Boosted:
        fitted = lightgbm.fit(train_windows, val_windows, summary.encoder, config.seed)
        return fitted.calibrated(val_windows, users_B, mean_C)

    # LightGBM rarely holds Python's lock, so the network can be calibrated meanwhile.
    trees = _in_background(fit_trees)
    metrics = _calibrate(trained, val, mean_C, summary, config.seed)
    fit_state_distance(trained.ensemble, summary.encoder, train_windows)
    params = _price(trained.ensemble, val, opportunities, summary, budget_share)
    metrics["foresight"] = clear = foresight(trained.ensemble, summary.encoder, val, config.seed)
    if clear > CLEAR and trained.ensemble.state_distance is not None:
        progress.report(1, 1, "value of the future")
        future = fit_future(trained.ensemble, summary.encoder, train_windows, params.price, config.seed)
        trained.ensemble.future = future
        params = _price(trained.ensemble, val, opportunities, summary, budget_share)
    metrics["looks_ahead"] = trained.ensemble.future is not None
    metrics["priced_on"] = "opportunities" if opportunities.enough else "touchpoints"
    policy = summary.policy("challenger", "mtorl", trained.ensemble, params, metrics, reference)
    artifact = save(out, replace(policy, yardstick=trees.result().to_dict()))
    if resume is not None:
        resume.remove(MEMBERS)
    return artifact


def _in_background(work: Callable[[], _Result]) -> Future[_Result]:
    """Run `work` in a daemon thread, so that it does not keep the process alive after Ctrl+C or an error."""
    future: Future[_Result] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return future


def _channel_means(trained_on: WindowTable, val: WindowTable, summary: TrainingSummary) -> Floats | None:
    rows = pd.concat([trained_on.rows, val.rows])
    rewards_B = summary.encoder.reward(summary.spec.reward.gain.of(rows), rows["cost"])
    return channel_means(rows, summary.spec, rewards_B)


def _calibrate(
    trained: Trained, val: WindowTable, mean_C: Floats | None, summary: TrainingSummary, seed: int
) -> dict[str, Any]:
    encoder, batch = summary.encoder, val.on_demand("val", targets=True)
    users_B = val.rows["user_id"].to_numpy()
    calibration = calibrate_ensemble(trained.ensemble, encoder, batch, users_B, mean_C)
    logits_BC, reward_BC, _ = predict(trained.ensemble, encoder, batch)
    logged, gain_B = labels(batch, encoder), summary.spec.reward.gain.of(val.rows)
    targets = LoggedTargets(
        logged.channel_B, logged.reward_B, users_B, positive_B=gain_B > 0, clone_B=~logged.collected_B
    )
    first = trained.members[0]
    return {
        **evaluate(logits_BC, reward_BC, targets, seed),
        "calibration": calibration._asdict(),
        "measured_on": "validation users, on whom training also stopped and the heads were calibrated",
        "measured_share": val.share,  # fraction of the validation users on whom the metrics were measured
        "seconds": trained.seconds,
        # The next four values describe only the first network of the ensemble.
        "best_epoch": first.best_epoch,
        "best_val_loss": first.best_val_loss,
        "epochs": len(first.history),
        "history": first.history,
        "members": [{"best_epoch": m.best_epoch, "best_val_loss": m.best_val_loss} for m in trained.members],
    }


def _price(
    ensemble: Ensemble,
    val: WindowTable,
    opportunities: Opportunities,
    summary: TrainingSummary,
    budget_share: float,
) -> PolicyParams:
    """Return the policy's parameters, with the price at which the policy spends the budget on validation users."""
    if opportunities.enough:
        batch: Windows = from_texts(opportunities.windows, summary.spec)
    else:
        batch = val.on_demand("val", targets=True)
    forecast = forecast_of(outputs_of(ensemble, summary.encoder, batch), summary.encoder)
    if opportunities.enough:
        logged = np.arange(len(opportunities)), opportunities.channel_B
        always_exposing = float(np.asarray(forecast.cost_BC)[logged].mean())
    else:
        always_exposing = float(val.rows["cost"].mean())
    return price_policy(forecast, budget_share * always_exposing)


def price_policy(forecast: Forecast, budget: float) -> PolicyParams:
    """Return the challenger's parameters, with the price at which it spends `budget` per row of `forecast`."""
    scale = utility_scale(forecast)
    params = PolicyParams(ADVANTAGE_WEIGHT, EXPLORATION, 0.0, scale)
    return replace(params, price=policy_price(forecast, params, budget))


@contextmanager
def _epoch_log(folder: str) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Yield a function that writes TensorBoard metrics of an epoch; it does nothing if `folder` is ""."""
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
