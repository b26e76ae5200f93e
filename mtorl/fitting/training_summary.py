"""Training data as an artifact describes it: encoder, users, channel uses and costs, a reference for drift.

summary = TrainingSummary.of(windows)
policy = summary.policy("challenger", "mtorl", network, params, metrics, summary.drift_thresholds())
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mtorl.artifact.saving import TrainedPolicy
from mtorl.drift.reference import MIN_USERS, sample_users, stretches
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec
from mtorl.log.opportunities import contexts
from mtorl.log.splits import Fingerprints, fingerprints
from mtorl.policy.decision import PolicyParams
from mtorl.window.encoder import Encoder
from mtorl.window.table import WindowTable, shards, touchpoints_per_user

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
    reference: pd.DataFrame

    @classmethod
    def of(cls, windows: str) -> TrainingSummary:
        """Read a windows folder; WindowError if it has no training users."""
        uses: Counter[str] = Counter()
        highest: dict[str, float] = {}
        reference, users = pd.DataFrame(), []
        share = min(1.0, REFERENCE_TOUCHPOINTS / touchpoints_per_user(windows))
        encoder, first = None, ""
        for file in shards(windows):
            table = WindowTable.load(windows, file=file)
            rows = table.rows[table.is_in("train")]
            # Validation users count as training users: they decide when training stops, and calibrate the heads.
            users.append(fingerprints(table.rows.loc[~table.is_in("test"), "user_id"].unique()))
            if not len(rows):
                continue
            # A shard is a random sample of the users, and up to millions of rows: enough for means and vocabularies.
            if encoder is None:
                encoder, first = Encoder.fit(table.tiles("train"), table.spec), file
            uses.update(rows["channel"])
            for name, cost in rows.groupby("channel")["cost"].max().items():
                highest[str(name)] = max(float(cost), highest.get(str(name), 0.0))
            # A hash chooses users, so a part at a time gives the same sample as all at once.
            reference = sample_users(pd.concat([reference, table.reference(share)], ignore_index=True))
        if encoder is None:
            raise WindowError("no training windows: the log has too few users")
        if (decided := contexts(windows, table.spec, "train")) is not None:
            # What a policy will be asked is all decisions, exposed or not.
            share = min(1.0, REFERENCE_TOUCHPOINTS * decided["user_id"].nunique() / len(decided))
            reference = sample_users(decided[stretches(decided["user_id"], share)].reset_index(drop=True))
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
            reference=reference,
        )

    def drift_thresholds(self) -> ThresholdGrid | None:
        """Thresholds of drift from the reference; None if it has too few users to measure any."""
        if self.reference["user_id"].nunique() < 2 * MIN_USERS:
            return None
        columns = (*self.spec.context, *self.spec.static)  # of own decisions, static columns may not be known
        kinds = {column.name: column.kind for column in columns if column.name in self.reference}
        return ThresholdGrid.measure(self.reference, kinds)

    def policy(
        self,
        name: str,
        kind: str,
        network: nn.Module,
        params: PolicyParams,
        metrics: Mapping[str, Any],
        thresholds: ThresholdGrid | None,
        yardstick: Mapping[str, Any] | None = None,
    ) -> TrainedPolicy:
        """A policy that was trained on these users, ready to be saved."""
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
            reference=self.reference,
            thresholds=thresholds,
            training_users=self.users,
            data_fingerprint=self.fingerprint,
            git_revision=git_revision(),
            yardstick=yardstick,
        )


def git_revision() -> str:
    """Commit of the code: from the checkout, else from the image's MTORL_REVISION."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("MTORL_REVISION", "unknown")
