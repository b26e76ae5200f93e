"""Saves a trained policy as an artifact: a folder from which a server can make decisions."""

from __future__ import annotations

import gc
import gzip
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mtorl.artifact import artifact
from mtorl.artifact.artifact import (
    DRIFT_THRESHOLDS,
    GRAPH_INPUTS,
    GRAPH_OUTPUTS,
    NETWORK,
    YARDSTICK,
    Artifact,
    ArtifactError,
)
from mtorl.artifact.lengths import exact_lengths, lengths_up_to
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import DatasetSpec
from mtorl.log.splits import Fingerprints
from mtorl.policy.decision import PolicyParams
from mtorl.runtime.files import replacing, sha256_of
from mtorl.window.encoder import Encoder
from mtorl.window.on_demand import CHUNK
from mtorl.window.window import AD_DECISION

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TrainedPolicy:
    """The content of an artifact: a trained policy, its origin and its metrics.

    Raises:
        ArtifactError: A channel has no cost cap, or an invalid one.
    """

    name: str
    kind: str  # "mtorl" or "channel-frequency"
    network: nn.Module  # forward(x_BTD, length_B) -> logits_BC, reward_BC, cost_BC and optional outputs
    encoder: Encoder
    spec: DatasetSpec
    params: PolicyParams
    cost_cap: Mapping[str, float]  # highest cost of an exposure on each channel
    default_channel: str  # used if a server lacks the time or the data for a decision
    metrics: Mapping[str, Any]  # null for a number that could not be computed
    reference: pd.DataFrame  # sample of training touchpoints: user_id, context and static columns
    training_users: Fingerprints  # of all training and validation users
    data_fingerprint: str  # of the log that the policy was trained on
    git_revision: str  # Git commit of the training code
    thresholds: ThresholdGrid | None = None
    yardstick: Mapping[str, Any] | None = None  # LightGBM models trained on the same users

    def __post_init__(self) -> None:
        channels, caps = self.spec.channels, dict(self.cost_cap)
        if set(caps) != set(channels) or not all(0 <= cap < float("inf") for cap in caps.values()):
            raise ArtifactError(f"cost_cap: need a number >= 0 for each of {', '.join(channels)}, got {caps}")


def save(folder: str | Path, policy: TrainedPolicy) -> Artifact:
    """Write a policy as an artifact folder, and replace the folder if it exists.

    Raises:
        ArtifactError: The exported graph and the network give different results.
    """
    with replacing(Path(folder)) as unfinished:
        unfinished.mkdir()
        unfinished.chmod(0o755)  # a server may run as another user
        lengths = _export(policy, unfinished)
        _write_json(unfinished / "encoder.json", policy.encoder.to_dict())
        policy.spec.save(unfinished / "dataset.yaml")
        _write_json(unfinished / "policy.json", asdict(policy.params))
        # Replace user ids by numbers, because drift tests only group the rows by user.
        users, _ = pd.factorize(policy.reference["user_id"])
        reference = policy.reference.assign(user_id=[f"reference-{user}" for user in users])
        reference.to_parquet(unfinished / "reference.parquet", index=False)
        _write_json(unfinished / "metrics.json", policy.metrics)
        np.save(unfinished / "training_users.npy", policy.training_users, allow_pickle=False)
        if policy.thresholds is not None:
            _write_json(unfinished / DRIFT_THRESHOLDS, policy.thresholds.to_dict())
        if policy.yardstick is not None:
            text = json.dumps(policy.yardstick, separators=(",", ":")).encode()
            # Write no time into the gzip header, so that equal content has an equal checksum.
            (unfinished / YARDSTICK).write_bytes(gzip.compress(text, mtime=0))
        model = {
            "schema_version": artifact.SCHEMA_VERSION,
            "name": policy.name,
            "kind": policy.kind,
            "git_revision": policy.git_revision,
            "data_fingerprint": policy.data_fingerprint,
            "simulated": policy.spec.simulated,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "cost_cap": {channel: float(policy.cost_cap[channel]) for channel in policy.spec.channels},
            "default_channel": policy.default_channel,
            "feature_service": AD_DECISION,
            "lengths": lengths,
            "files": {path.name: sha256_of(path) for path in sorted(unfinished.iterdir())},
        }
        digest = artifact.digest_of(model)
        _write_json(unfinished / "model.json", {**model, "version": digest[:12], "digest": digest})
    return artifact.load(folder)


def _export(policy: TrainedPolicy, folder: Path) -> tuple[int, ...]:
    """Export the network to ONNX, check the export on random inputs, and return the window lengths that it may use."""
    import torch
    from onnxscript.optimizer import optimize_ir

    from mtorl.network.checkpoint import write_tensors

    network = policy.network.eval().cpu()
    steps, width = policy.spec.window, policy.encoder.dim
    generator = torch.Generator().manual_seed(0)

    def example(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.randint(1, steps + 1, (rows,), generator=generator)
        return torch.rand(rows, steps, width, generator=generator), lengths

    # The bounds on the batch size only make the export faster. The exported graph also accepts a batch of one.
    any_batch = {0: torch.export.Dim("batch", min=2, max=CHUNK)}
    least, *longer = lengths_up_to(steps)
    any_length = {1: torch.export.Dim("steps", min=least, max=steps)} if longer else {}
    with _undisturbed_export():
        program = torch.export.export(network, example(3), dynamic_shapes=({**any_batch, **any_length}, any_batch))
        names = GRAPH_OUTPUTS[: len(program.graph_signature.user_outputs)]
        graph = torch.onnx.export(
            program, input_names=GRAPH_INPUTS, output_names=names, dynamo=True, verbose=False, optimize=False
        )
        assert graph is not None, "torch returns a graph that is exported to memory"
        # Shape inference for each node takes long and does not improve the graph.
        optimize_ir(graph.model, onnx_shape_inference=False)
    graph.save(folder / NETWORK)
    write_tensors(folder / "weights.pt", network.state_dict())
    exported = artifact.open_graph(folder / NETWORK)
    for rows in (1, 2, 9):
        x_BTD, length_B = example(rows)
        with torch.inference_mode():
            expected = network(x_BTD, length_B)
        for head, graph_head in zip(expected, exported(x_BTD.numpy(), length_B.numpy()), strict=True):
            if not np.allclose(head.numpy(), graph_head, rtol=1e-5, atol=1e-5):
                raise ArtifactError(f"{NETWORK}: the graph differs from the network at batch size {rows}")
    return exact_lengths(exported, steps, width)


@contextmanager
def _undisturbed_export() -> Iterator[None]:
    """Hide log messages, and pause the garbage collection to save a tenth of the time."""
    collects, disabled = gc.isenabled(), logging.root.manager.disable
    gc.disable()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if collects:
            gc.enable()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
