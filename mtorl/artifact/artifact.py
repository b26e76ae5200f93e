"""Reads a model artifact: a folder with everything that decisions need.

    artifact = load(folder)                        # checks every file; the network is loaded at the first prediction
    forecast = artifact.forecast(WindowBatch.from_instances(instances, artifact.spec))
    decide(forecast, artifact.policy, u_B)

    network.onnx       graph and weights: x_BTD, length_B -> logits_BC, reward_BC, cost_BC and, if the network has them,
                       state_distance_B (`mtorl.network.user_state`) and future_BC2 (`mtorl.network.future_value`); for
                       any B, and for T in the lengths of model.json
    weights.pt         only the weights, as torch tensors
    encoder.json       vocabularies, normalisation and reward scale
    dataset.yaml       description of the data set
    policy.json        parameters of the decision rule
    reference.parquet  sample of training touchpoints, the reference for drift; numbers instead of user ids
    metrics.json       accuracy of the predictions, with intervals
    training_users.npy fingerprints of the users in the training (`mtorl.log.splits`)
    drift_thresholds.json  lowest scores that count as drift from the reference; optional
    yardstick.json.gz  LightGBM fitted on the same training users, for comparison; optional
    model.json         name, kind, version, origin, whether the data are simulated, cost caps, default channel, the
                       lengths (`mtorl.artifact.lengths`) of the graph, and the sha256 of every file above

The graph is ONNX, exported by `torch.export`. It does not depend on our Python classes, so a server with another
version of this package computes the same results. The graph runs without torch, whose overhead for each operator is
several times the cost of a window of a small network. `digest` covers model.json and, by its checksums, all files.
`version` is the first twelve characters of the digest. `mtorl.artifact.saving` writes the folder.

Shapes: B batch, T steps of a window, D encoded token, C channels.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtorl.artifact.lengths import shortened
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import DatasetSpec
from mtorl.log.splits import Fingerprints, are_among
from mtorl.network.predictor import Heads, Network, heads_of, predict_in_chunks
from mtorl.policy.decision import Forecast, PolicyParams
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import sha256_of
from mtorl.runtime.messages import DAMAGED, OTHER_SCHEMA
from mtorl.window.encoder import Encoder
from mtorl.window.on_demand import Windows
from mtorl.window.window import WindowBatch

SCHEMA_VERSION = 1
NETWORK = "network.onnx"
FILES = (
    *(NETWORK, "weights.pt", "encoder.json", "dataset.yaml", "policy.json", "reference.parquet"),
    *("metrics.json", "training_users.npy"),
)
YARDSTICK, DRIFT_THRESHOLDS = "yardstick.json.gz", "drift_thresholds.json"
OPTIONAL = {YARDSTICK, DRIFT_THRESHOLDS}
GRAPH_INPUTS = ("x_BTD", "length_B")
GRAPH_OUTPUTS = ("logits_BC", "reward_BC", "cost_BC", "state_distance_B", "future_BC2")


class ArtifactError(InputError):
    """A file of a model artifact is missing, damaged or changed."""


@dataclass(frozen=True)
class Artifact:
    """A model artifact that was read from a folder."""

    folder: Path
    spec: DatasetSpec
    encoder: Encoder
    policy: PolicyParams
    model: dict[str, Any]  # content of model.json

    @property
    def digest(self) -> str:
        """The SHA-256 hash of the artifact's content, in hexadecimal digits."""
        return str(self.model["digest"])

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics that were measured after the training."""
        return dict(_read_json(self.folder / "metrics.json"))

    def reference(self) -> pd.DataFrame:
        """The sample of training touchpoints for drift tests."""
        return pd.read_parquet(self.folder / "reference.parquet")

    def drift_thresholds(self) -> ThresholdGrid | None:
        """The thresholds of the drift tests, or None."""
        path = self.folder / DRIFT_THRESHOLDS
        return ThresholdGrid.from_dict(_read_json(path)) if path.exists() else None

    def training_users(self) -> Fingerprints:
        """The sorted fingerprints of all training and validation users."""
        users: Fingerprints = np.load(self.folder / "training_users.npy", allow_pickle=False)
        return users

    def yardstick(self) -> dict[str, Any] | None:
        """The LightGBM models for `Boosted.from_dict`, or None."""
        path = self.folder / YARDSTICK
        return json.loads(gzip.decompress(path.read_bytes())) if path.exists() else None

    @property
    def lengths(self) -> tuple[int, ...]:
        """The window lengths, in steps, for which the graph may run, ascending."""
        return tuple(self.model["lengths"])

    @cached_property
    def network(self) -> Network:
        """The exported network. The first access imports onnxruntime and reads the graph."""
        return shortened(open_graph(self.folder / NETWORK), self.lengths)

    def outputs(self, batch: Windows) -> tuple[NDArray[np.floating[Any]], ...]:
        """Compute `GRAPH_OUTPUTS` at the last step of each window."""
        return predict_in_chunks(self.network, self.encoder, batch)

    def predict(self, batch: WindowBatch) -> Heads:
        """Compute action logits, rewards in [0, 1] and costs, each (B, C), for the last steps."""
        return heads_of(self.outputs(batch))

    def forecast(self, batch: Windows) -> Forecast:
        """Compute the forecast at the last step of each window."""
        return forecast_of(self.outputs(batch), self.encoder)

    def forecast_with_state(self, batch: Windows) -> tuple[Forecast, NDArray[np.floating[Any]] | None]:
        """Compute the forecast, and the distance (B,) of each user's state from the states in training.

        The distance is None if the model does not compute it.
        """
        outputs = self.outputs(batch)
        return forecast_of(outputs, self.encoder), outputs[3] if len(outputs) > 3 else None


def forecast_of(outputs: Sequence[NDArray[np.floating[Any]]], encoder: Encoder) -> Forecast:
    """Convert the arrays that a model returns, in the order of `GRAPH_OUTPUTS`, to a forecast."""
    logits_BC, reward_BC, cost_BC = outputs[:3]
    return Forecast(logits_BC, encoder.unreward(reward_BC, cost_BC), cost_BC, outputs[4] if len(outputs) > 4 else None)


def load(folder: str | Path) -> Artifact:
    """Read an artifact and verify the checksums of its files.

    Raises:
        ArtifactError: A file is missing, damaged or changed, or the schema version is unknown.
    """
    path = Path(folder)
    model = _read_json(path / "model.json")
    if not isinstance(model, dict) or model.get("schema_version") != SCHEMA_VERSION:
        version = model.get("schema_version") if isinstance(model, dict) else None
        raise ArtifactError(OTHER_SCHEMA(file=path / "model.json", version=version, known=SCHEMA_VERSION))
    _compare_checksums(path, model)
    try:
        return Artifact(
            folder=path,
            spec=DatasetSpec.load(path / "dataset.yaml"),
            encoder=Encoder.from_dict(_read_json(path / "encoder.json")),
            policy=PolicyParams(**_read_json(path / "policy.json")),
            model=model,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: this release can't read the artifact: {error}") from error


def open_graph(path: Path) -> Network:
    """Read an exported graph, and return it as a function of NumPy arrays."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Use one thread, because the threads of a small network mostly wait for each other.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # log only errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = GRAPH_OUTPUTS[: len(session.get_outputs())]

    def outputs(x_BTD: NDArray[np.float32], length_B: NDArray[np.int64]) -> tuple[NDArray[np.floating[Any]], ...]:
        return tuple(session.run(names, dict(zip(GRAPH_INPUTS, (x_BTD, length_B), strict=True))))

    return outputs


def digest_of(model: Mapping[str, Any]) -> str:
    """Return the SHA-256 hash of model.json, which contains the hash of every other file."""
    return hashlib.sha256(json.dumps(model, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _compare_checksums(path: Path, model: dict[str, Any]) -> None:
    files = model.get("files")
    if not isinstance(files, dict) or set(files) - OPTIONAL != set(FILES):
        raise ArtifactError(f"{path / 'model.json'}: its list of files is not {', '.join(FILES)}")
    if model.get("digest") != digest_of({k: v for k, v in model.items() if k not in ("digest", "version")}):
        raise ArtifactError(DAMAGED(file=path / "model.json"))
    for file, expected in files.items():
        if not (path / file).is_file():
            raise ArtifactError(f"{path / file}: missing")
        if sha256_of(path / file) != expected:
            raise ArtifactError(DAMAGED(file=path / file))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; is {path.parent} a model artifact?") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from None


_MODEL, _USERS = "model.json", "training_users.npy"


@dataclass(frozen=True)
class TrainedOn:
    """A model whose training data contains at least one of the searched users."""

    name: str  # name of the artifact
    version: str
    users: tuple[str, ...]
    places: tuple[Path, ...]  # folders with a copy of the artifact


def is_artifact(folder: Path) -> bool:
    """Whether a folder contains an artifact."""
    return (folder / _MODEL).is_file() and (folder / _USERS).is_file()


def trained_on(artifacts: Iterable[Path], user_ids: Iterable[str]) -> list[TrainedOn]:
    """Find the models that were trained on any of the given users. Copies of a model are listed once.

    Raises:
        ArtifactError: A folder is not an artifact, or can't be read.
    """
    users = sorted(set(user_ids))
    found: dict[str, TrainedOn] = {}
    for folder in artifacts:
        try:
            model = dict(json.loads((folder / _MODEL).read_text(encoding="utf-8")))
            trained_B = are_among(users, np.load(folder / _USERS, allow_pickle=False))
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise ArtifactError(f"{folder}: {_MODEL} or {_USERS} can't be read: {error}") from None
        trained = tuple(user for user, is_one in zip(users, trained_B, strict=True) if is_one)
        if trained:
            digest = str(model.get("digest", folder))
            places = (*(found[digest].places if digest in found else ()), folder)
            found[digest] = TrainedOn(str(model.get("name")), str(model.get("version")), trained, places)
    return list(found.values())
