"""Fits incumbent and challenger on the training users of a windows folder, and saves their artifacts.

    incumbent = fit_incumbent("runs/latest/windows", "incumbent")
    challenger = fit_challenger("runs/latest/windows", "challenger", TrainConfig(), budget_share=0.5)

Several processes may train the challenger together (`mtorl.network.parallel`); the leading one saves the artifact.
"""

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


# Of a training user in the reference, on average: enough to show how alike a user's touchpoints are.
REFERENCE_TOUCHPOINTS = 5


@dataclass(frozen=True)
class TrainingSummary:
    """Facts about the training users of a windows folder, collected shard by shard so that memory stays bounded."""

    spec: DatasetSpec
    fingerprint: str  # of the log
    encoding_digest: str  # of description and encoder: equal digests mean equal inputs and labels from equal data
    encoder: Encoder
    first_shard: str  # the first one with training users; a random sample of them
    users: Fingerprints
    channel_uses: Counter[str]
    highest_cost: dict[str, float]  # of an exposure on each channel that training saw

    @classmethod
    def of(cls, windows: str) -> TrainingSummary:
        """Read a windows folder; WindowError if it has no training users."""
        uses: Counter[str] = Counter()
        highest: dict[str, float] = {}
        users, encoder, first = [], None, ""
        for file in shards(windows):
            table = WindowTable.load(windows, file=file)
            rows = table.rows[table.is_in("train")]
            # Validation users count as training users: they decide when training stops, and calibrate the heads.
            users.append(fingerprints(table.rows.loc[~table.is_in("test"), "user_id"].unique()))
            if not len(rows):
                continue
            # The first shard is a random sample of the users, large enough for means and vocabularies.
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
        """A policy that was trained on these users, ready to be saved; measures the thresholds of drift."""
        # A channel that training never saw gets the highest cost of all channels: a cap must not be too small.
        highest = max(self.highest_cost.values())
        return TrainedPolicy(
            name=name,
            kind=kind,
            network=network,
            encoder=self.encoder,
            spec=self.spec,
            params=params,
            cost_cap={channel: self.highest_cost.get(channel, highest) for channel in self.spec.channels},
            # The most used channel; of several, the first in alphabetical order.
            default_channel=max(sorted(self.channel_uses), key=self.channel_uses.__getitem__),
            metrics=metrics,
            reference=reference,
            thresholds=drift_thresholds(reference, self.spec),
            training_users=self.users,
            data_fingerprint=self.fingerprint,
            git_revision=git_revision(),
        )


def drift_reference(windows: str, spec: DatasetSpec) -> pd.DataFrame:
    """User, context and static columns of training users, with which requests are compared later."""
    if (decided := contexts(windows, spec, "train")) is not None:
        # A policy decides on all opportunities, exposed or not.
        share = min(1.0, REFERENCE_TOUCHPOINTS * decided["user_id"].nunique() / len(decided))
        return sample_users(decided[stretches(decided["user_id"], share)].reset_index(drop=True))
    share = min(1.0, REFERENCE_TOUCHPOINTS / touchpoints_per_user(windows))
    reference = pd.DataFrame()
    for file in shards(windows):
        # A hash chooses users, so a part at a time gives the same sample as all at once.
        rows = WindowTable.load(windows, "train", file).reference(share)
        reference = sample_users(pd.concat([reference, rows], ignore_index=True))
    return reference


def drift_thresholds(reference: pd.DataFrame, spec: DatasetSpec) -> ThresholdGrid | None:
    """Thresholds of drift from a reference; None if it has too few users to measure any."""
    if reference["user_id"].nunique() < 2 * MIN_USERS:
        return None
    columns = (*spec.context, *spec.static)  # of own decisions, static columns may not be known
    return ThresholdGrid.measure(reference, {c.name: c.kind for c in columns if c.name in reference})


def git_revision() -> str:
    """Commit of the code: from the checkout, else from the image's MTORL_REVISION."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("MTORL_REVISION", "unknown")


ADVANTAGE_WEIGHT = 5.0  # beta: one utility_scale of extra utility multiplies the odds of a channel by e^5
EXPLORATION = 0.05  # epsilon: every channel keeps some probability, so later off-policy estimates stay possible
_Result = TypeVar("_Result")


def fit_incumbent(windows: str, out: str) -> Artifact:
    """Tabulate channel frequencies by segment and save them as an artifact."""
    summary = TrainingSummary.of(windows)
    network = channel_frequency.fit((tiles(windows, "train", file) for file in shards(windows)), summary.encoder)
    params, reference = channel_frequency.POLICY, drift_reference(windows, summary.spec)
    return save(out, summary.policy("incumbent", "channel-frequency", network, params, {}, reference))


def take_incumbent(windows: str, served: str, out: str) -> Artifact:
    """Copy the artifact of a policy that serves, to compare with on the test users of the windows.

    A user's part of the split never changes, so an earlier night has not trained on these test users either. An
    artifact of other columns or channels than the windows have is a WindowError.
    """
    artifact, spec = load(Path(served)), DatasetSpec.load(Path(windows) / DATASET_FILE)
    theirs, ours = (one.model_dump(exclude={"name", "description"}) for one in (artifact.spec, spec))
    if differ := [name for name in ours if ours[name] != theirs[name]]:
        error = WindowError(
            f"the incumbent that serves, {served}, was trained on another description of the data: {', '.join(differ)} "
            "differ. To train on this one, compare with the channel frequencies (lake: empty)"
        )
        if more := [name for name in spec.channels if name not in artifact.spec.channels]:
            error.add_note(f"How a channel ({', '.join(more)}) comes to what serves: docs/data.md, A new channel")
        raise error
    with replacing(Path(out)) as unfinished:
        shutil.copytree(served, unfinished)
    return load(Path(out))


def fit_challenger(
    windows: str, out: str, config: TrainConfig, budget_share: float, checkpoint: str = "", log: str = ""
) -> Artifact | None:
    """Train MTORL, calibrate it and price the budget on validation users, and save the policy as an artifact.

    The artifact also gets LightGBM, fitted on the same users or, if the folder has several shards, on those of the
    first one. Returns None in a process that does not lead.

    Args:
        budget_share: Budget as a share of what always exposing would cost; sets the price of the budget.
        checkpoint: Start of the names of files from which a killed training continues; "" for none.
        log: Folder for the metrics of each epoch, for TensorBoard; "" for none.

    Raises:
        InputError: the budget share is not a positive number, or no exposure costs anything. Else as `train_ensemble`.
    """
    if not 0 < budget_share < math.inf:
        raise InputError(f"budget_share must be a positive number, got {budget_share}")
    summary = TrainingSummary.of(windows)
    if not any(summary.highest_cost.values()):
        raise InputError(NO_COST(column="cost"))
    identity = {"data": summary.fingerprint, "windows": summary.encoding_digest}
    resume = Checkpoint(Path(checkpoint), identity) if checkpoint else None
    with one_thread(), parallel.joined() as group, _epoch_log(log if group.leads else "") as write:
        # Two networks on two processors take as long as one; a GPU is one that both would share.
        at_once = group.size == 1 and parallel.device_of(config.device).type == "cpu" and processors() >= MEMBERS
        epochs: dict[int, float] = {}

        def on_epoch(member: int, row: dict[str, float]) -> None:
            epochs[member] = row["epoch"]
            if not at_once:  # those before have ended, if early
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
    # Trees take one processor, and Python's lock seldom.
    trees = _in_background(lambda: lightgbm.fit(train_windows, val_windows, summary.encoder, config.seed))
    metrics = _calibrate(trained, val, trained_on, summary, config.seed)
    fit_state_distance(trained.ensemble, summary.encoder, train_windows)
    params = _price(trained.ensemble, val, opportunities, summary, budget_share)
    metrics["foresight"] = clear = foresight(trained.ensemble, summary.encoder, val, config.seed)
    if clear > CLEAR and trained.ensemble.state_distance is not None:
        progress.report(1, 1, "value of the future")
        future = fit_future(trained.ensemble, summary.encoder, train_windows, params.price, config.seed)
        trained.ensemble.future = future
        params = _price(trained.ensemble, val, opportunities, summary, budget_share)
    metrics |= {"priced_on": "touchpoints" if opportunities is None else "opportunities"}
    progress.report(1, 1, "thresholds of drift")
    policy = summary.policy("challenger", "mtorl", trained.ensemble, params, metrics, reference)
    artifact = save(out, replace(policy, yardstick=trees.result().to_dict()))
    if resume is not None:
        resume.remove(MEMBERS)
    return artifact


def _in_background(work: Callable[[], _Result]) -> Future[_Result]:
    """Work in a daemon thread, which holds up neither Ctrl-C nor an error here."""
    future: Future[_Result] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return future


def _calibrate(
    trained: Trained, val: WindowTable, trained_on: WindowTable, summary: TrainingSummary, seed: int
) -> dict[str, Any]:
    """Calibrate the ensemble on validation users; training users help with channels' mean outcomes only."""
    encoder, batch = summary.encoder, val.on_demand("val", targets=True)
    users_B = val.rows["user_id"].to_numpy()
    rows = pd.concat([trained_on.rows, val.rows])
    mean_C = channel_means(rows, summary.spec, encoder.reward(summary.spec.reward.gain.of(rows), rows["cost"]))
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
        "measured_share": val.share,  # of the validation users
        "seconds": trained.seconds,
        # Of the first member; the others differ in their seed only.
        "best_epoch": first.best_epoch,
        "best_val_loss": first.best_val_loss,
        "epochs": len(first.history),
        "history": first.history,
        "members": [{"best_epoch": m.best_epoch, "best_val_loss": m.best_val_loss} for m in trained.members],
    }


def _price(
    ensemble: Ensemble,
    val: WindowTable,
    opportunities: Opportunities | None,
    summary: TrainingSummary,
    budget_share: float,
) -> PolicyParams:
    """Parameters whose price meets the budget, at every opportunity where they are known, not only at the exposed."""
    if opportunities is None:
        batch: Windows = val.on_demand("val", targets=True)
        always_exposing = float(val.rows["cost"].mean())
    else:
        batch = from_texts(opportunities.windows, summary.spec)
    forecast = forecast_of(outputs_of(ensemble, summary.encoder, batch), summary.encoder)
    if opportunities is not None:
        logged = np.arange(len(opportunities)), opportunities.channel_B
        always_exposing = float(np.asarray(forecast.cost_BC)[logged].mean())
    return price_policy(forecast, budget_share * always_exposing)


def price_policy(forecast: Forecast, budget: float) -> PolicyParams:
    """The challenger's parameters, priced so that its expected spend per row meets a budget (currency units)."""
    scale = utility_scale(forecast)
    params = PolicyParams(ADVANTAGE_WEIGHT, EXPLORATION, 0.0, scale)
    return replace(params, price=policy_price(forecast, params, budget))


@contextmanager
def _epoch_log(folder: str) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A function that writes an epoch's history row of a member, a TensorBoard run each; "" writes nothing."""
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
