"""The model artifact: one folder that holds everything a server needs, sealed by checksums.

    save(folder, name="challenger", kind="mtorl", network=network, encoder=encoder, policy=policy, ...)
    artifact = load(folder)                        # verifies every file; the network waits for the first prediction
    logits_BC, reward_BC, cost_BC = artifact.predict(WindowBatch.from_instances(instances, artifact.spec))

    network.onnx       graph and weights: x_BTD, length_B -> logits_BC, reward_BC, cost_BC; any B, fixed T
    weights.pt         the weights alone, to go on training from
    encoder.json       vocabularies, normalisation and reward scale
    dataset.yaml       description of the data set
    policy.json        parameters of the decision rule
    reference.parquet  sample of training touchpoints that drift is measured against
    metrics.json       how well it predicts, with intervals
    training_users.npy fingerprints of the users it was trained on (`mtorl.artifact.training_users`)
    yardstick.json.gz  LightGBM of the same training users, to compare with; not in every artifact
    model.json         name, kind, version, origin, cost caps, default channel, sha256 of every file above

The graph is ONNX, what `torch.export` finds of the network: it needs no Python class of ours, so a server with another
version of this package still computes what was trained, and no torch, whose cost for each operator is several times
what a window of a small network takes. `digest` covers model.json and, through its checksums, all files; `version` is
how it starts.

Shapes: B batch, T steps of a window, D encoded token, C channels.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtorl.artifact.training_users import Fingerprints
from mtorl.log.dataset import DatasetSpec
from mtorl.policy.decision import PolicyParams
from mtorl.runtime.threads import one_thread
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch

if TYPE_CHECKING:
    from torch import nn

SCHEMA_VERSION = 4
FEATURE_SERVICE = "ad_decision_v1"
KINDS = ("mtorl", "channel-frequency")
NETWORK = "network.onnx"
FILES = (
    NETWORK,
    "weights.pt",
    "encoder.json",
    "dataset.yaml",
    "policy.json",
    "reference.parquet",
    "metrics.json",
    "training_users.npy",
)
YARDSTICK = "yardstick.json.gz"
_CHUNK = 4096  # windows a call: bounds the memory of scoring a whole log

_INPUTS, _OUTPUTS = ("x_BTD", "length_B"), ("logits_BC", "reward_BC", "cost_BC")

Heads = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
Network = Callable[[NDArray[np.float32], NDArray[np.int64]], Heads]


class ArtifactError(Exception):
    """The folder is not an artifact, or a file in it is not what was saved; the message names the file."""


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact."""

    folder: Path
    spec: DatasetSpec
    encoder: Encoder
    policy: PolicyParams
    model: dict[str, Any]  # model.json

    @property
    def digest(self) -> str:
        """Identifies the artifact: hex sha256 over everything in it."""
        return str(self.model["digest"])

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """metrics.json."""
        return dict(_read_json(self.folder / "metrics.json"))

    def reference(self) -> pd.DataFrame:
        """reference.parquet: user_id, context and static columns of training touchpoints."""
        return pd.read_parquet(self.folder / "reference.parquet")

    def training_users(self) -> Fingerprints:
        """training_users.npy."""
        users: Fingerprints = np.load(self.folder / "training_users.npy", allow_pickle=False)
        return users

    def yardstick(self) -> dict[str, Any] | None:
        """What `mtorl.baselines.lightgbm.Boosted.from_dict` reads, if the artifact has it."""
        path = self.folder / YARDSTICK
        return json.loads(gzip.decompress(path.read_bytes())) if path.exists() else None

    @cached_property
    def network(self) -> Network:
        """The graph, on one thread; loading it imports onnxruntime."""
        return _session(self.folder / NETWORK)

    def predict(self, batch: WindowBatch) -> Heads:
        """Action logits, expected reward in [0, 1] and expected cost of each channel, at each window's last step."""
        return _in_chunks(self.network, self.encoder, batch)


def run(network: nn.Module, encoder: Encoder, batch: WindowBatch) -> Heads:
    """Windows through a network that was just trained: what an artifact of it would predict."""
    import torch

    def heads(x_BTD: NDArray[np.float32], length_B: NDArray[np.int64]) -> Heads:
        logits_BC, reward_BC, cost_BC = network(torch.from_numpy(x_BTD), torch.from_numpy(length_B))
        return logits_BC.numpy(), reward_BC.numpy(), cost_BC.numpy()

    with torch.inference_mode(), one_thread():
        return _in_chunks(heads, encoder, batch)


def _in_chunks(network: Network, encoder: Encoder, batch: WindowBatch) -> Heads:
    if len(batch) <= _CHUNK:
        return network(*encoder.encode(batch))
    chunks = np.split(np.arange(len(batch)), range(_CHUNK, len(batch), _CHUNK))
    parts = [network(*encoder.encode(batch.take(rows))) for rows in chunks]
    logits_BC, reward_BC, cost_BC = (np.concatenate(part) for part in zip(*parts, strict=True))
    return logits_BC, reward_BC, cost_BC


def _session(path: Path) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Threads mostly wait for each other at this size (`mtorl.runtime.threads`): servers scale by workers and pods.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def heads(x_BTD: NDArray[np.float32], length_B: NDArray[np.int64]) -> Heads:
        logits_BC, reward_BC, cost_BC = session.run(_OUTPUTS, {_INPUTS[0]: x_BTD, _INPUTS[1]: length_B})
        return logits_BC, reward_BC, cost_BC

    return heads


def save(
    folder: str | Path,
    *,
    name: str,
    kind: str,
    network: nn.Module,
    encoder: Encoder,
    spec: DatasetSpec,
    policy: PolicyParams,
    reference: pd.DataFrame,
    metrics: Mapping[str, Any],
    cost_cap: Mapping[str, float],
    default_channel: str,
    data_fingerprint: str,
    git_revision: str,
    training_users: Fingerprints,
    yardstick: Mapping[str, Any] | None = None,
) -> Artifact:
    """Write an artifact in one step: the folder is complete or not there. An older one in its place is replaced.

    Args:
        folder: Where to.
        name: Of the policy, for people: "challenger".
        kind: "mtorl" or "channel-frequency".
        network: forward(x_BTD, length_B) -> logits_BC, reward_BC, cost_BC.
        encoder: That it was trained with.
        spec: Of the data set.
        policy: Parameters of the decision rule.
        reference: Sample of training touchpoints (user_id, context and static columns).
        metrics: Plain numbers; null for what could not be computed.
        cost_cap: Highest possible cost of an exposure on each channel, in currency units: what a server reserves.
        default_channel: What a server answers with when it has no time or no data.
        data_fingerprint: Of the log it was trained on.
        git_revision: Of the code.
        training_users: Of all users that had a part in it.
        yardstick: LightGBM fitted on the same users, with the same encoder (`Boosted.to_dict`).

    Raises:
        ArtifactError: an argument contradicts the data set, or the exported graph does not compute what the network
            does.
    """
    if kind not in KINDS:
        raise ArtifactError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
    if default_channel not in spec.channels:
        raise ArtifactError(f"default_channel: {default_channel!r} is not one of {', '.join(spec.channels)}")
    if set(cost_cap) != set(spec.channels) or not all(0 <= cap < float("inf") for cap in cost_cap.values()):
        raise ArtifactError(
            f"cost_cap: need a number >= 0 for each of {', '.join(spec.channels)}, got {dict(cost_cap)}"
        )

    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _export(network, encoder, spec, temporary)
        _write_json(temporary / "encoder.json", encoder.to_dict())
        spec.save(temporary / "dataset.yaml")
        _write_json(temporary / "policy.json", policy.to_dict())
        reference.to_parquet(temporary / "reference.parquet", index=False)
        _write_json(temporary / "metrics.json", metrics)
        np.save(temporary / "training_users.npy", training_users, allow_pickle=False)
        files: tuple[str, ...] = FILES
        if yardstick is not None:
            text = json.dumps(yardstick, separators=(",", ":")).encode()
            (temporary / YARDSTICK).write_bytes(gzip.compress(text, mtime=0))
            files = (*FILES, YARDSTICK)
        model = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "kind": kind,
            "git_revision": git_revision,
            "data_fingerprint": data_fingerprint,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "cost_cap": {channel: float(cost_cap[channel]) for channel in spec.channels},
            "default_channel": default_channel,
            "feature_service": FEATURE_SERVICE,
            "files": {file: _sha256(temporary / file) for file in files},
        }
        digest = _digest(model)
        _write_json(temporary / "model.json", {**model, "version": digest[:12], "digest": digest})
        temporary.chmod(0o755)  # mkdtemp's 0700 would shut out a server that runs as another user
        _replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load(target)


def load(folder: str | Path, verify: bool = True) -> Artifact:
    """Read an artifact, without torch.

    Args:
        folder: Where it is.
        verify: Compare every file with its checksum.

    Raises:
        ArtifactError: no artifact there, one of another schema version, or a file is missing, damaged or exchanged.
    """
    path = Path(folder)
    model = _read_json(path / "model.json")
    if not isinstance(model, dict) or model.get("schema_version") != SCHEMA_VERSION:
        found = model.get("schema_version") if isinstance(model, dict) else None
        raise ArtifactError(f"{path / 'model.json'}: schema version {found!r}, this code reads {SCHEMA_VERSION}")
    if verify:
        _verify(path, model)
    try:
        return Artifact(
            folder=path,
            spec=DatasetSpec.load(path / "dataset.yaml"),
            encoder=Encoder.from_dict(_read_json(path / "encoder.json")),
            policy=PolicyParams.from_dict(_read_json(path / "policy.json")),
            model=model,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read by this version of the code: {error}") from error


def _export(network: nn.Module, encoder: Encoder, spec: DatasetSpec, folder: Path) -> None:
    import torch

    network = network.eval().cpu()
    generator = torch.Generator().manual_seed(0)

    def example(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.randint(1, spec.window + 1, (rows,), generator=generator)
        return torch.rand(rows, spec.window, encoder.dim, generator=generator), lengths

    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")  # deprecations inside torch itself
        program = torch.export.export(network, example(3), dynamic_shapes=({0: batch}, {0: batch}))
        graph = torch.onnx.export(program, input_names=_INPUTS, output_names=_OUTPUTS, dynamo=True, verbose=False)
    assert graph is not None, "what is exported to memory is returned"
    graph.save(folder / NETWORK)
    torch.save(network.state_dict(), folder / "weights.pt")
    exported = _session(folder / NETWORK)
    for rows in (1, 2, 9):
        inputs = example(rows)
        with torch.inference_mode():
            expected = network(*inputs)
        for one, other in zip(expected, exported(*(part.numpy() for part in inputs)), strict=True):
            if not np.allclose(one.numpy(), other, rtol=1e-5, atol=1e-5):
                raise ArtifactError(f"{NETWORK}: the graph differs from the network at batch size {rows}")


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Hold back a library's warnings about what it does not find."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _verify(path: Path, model: dict[str, Any]) -> None:
    files = model.get("files")
    if not isinstance(files, dict) or set(files) - {YARDSTICK} != set(FILES):
        raise ArtifactError(f"{path / 'model.json'}: its list of files is not {', '.join(FILES)}")
    if model.get("digest") != _digest({k: v for k, v in model.items() if k not in ("digest", "version")}):
        raise ArtifactError(f"{path / 'model.json'}: does not match its digest; it was changed after it was saved")
    for file, expected in files.items():
        if not (path / file).is_file():
            raise ArtifactError(f"{path / file}: missing")
        if _sha256(path / file) != expected:
            raise ArtifactError(f"{path / file}: does not match its checksum; it is damaged or was exchanged")


def _replace(new: Path, target: Path) -> None:
    """Put a finished folder in place. A folder can't be renamed over another, so an old one steps aside first."""
    if target.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        os.rename(target, aside / target.name)
        os.rename(new, target)
        shutil.rmtree(aside)
    else:
        os.rename(new, target)


def _digest(model: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(model, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; is {path.parent} a model artifact?") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from None
