import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from mtorl.artifact import artifact
from mtorl.artifact.artifact import DRIFT_THRESHOLDS, FILES, ArtifactError, TrainedOn, is_artifact, load, trained_on
from mtorl.artifact.saving import TrainedPolicy, save
from mtorl.baselines import lightgbm
from mtorl.drift.thresholds import Size, ThresholdGrid
from mtorl.log.dataset import DatasetSpec
from mtorl.log.splits import fingerprints
from mtorl.network.model import MTORL, MTORLConfig
from mtorl.policy.decision import PolicyParams
from mtorl.runtime.messages import DAMAGED
from mtorl.window.encoder import Encoder
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch
from tests.messages import raises
from tests.mtorl.window.windows_folder import STEPS
from tests.repository import ROOT

SPEC = DatasetSpec.load("simulator")
POLICY = PolicyParams(advantage_weight=2.0, exploration=0.05, price=0.1, utility_scale=0.04)


def batch(rows: int) -> WindowBatch:
    return WindowBatch.from_steps(pa.Table.from_pandas(STEPS, preserve_index=False), np.arange(rows), SPEC)


def network_config(encoder: Encoder) -> MTORLConfig:
    outcomes = len(encoder.seen)
    return MTORLConfig(encoder.dim, len(SPEC.channels), SPEC.window, outcomes, hidden=16, cost_scale=0.3)


def trained_policy(**changes: Any) -> TrainedPolicy:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = Encoder.fit(batch(40), SPEC)
    network = MTORL(network_config(encoder))
    fields = {
        "name": "challenger",
        "kind": "mtorl",
        "network": network,
        "encoder": encoder,
        "spec": SPEC,
        "params": POLICY,
        "reference": pd.DataFrame({"user_id": ["a", "b"], "hour": [1.0, 2.0]}),
        "metrics": {"reward_auc": 0.7, "reward_auc_ci": [0.68, 0.72], "action_auc": None},
        "cost_cap": dict.fromkeys(SPEC.channels, 0.5),
        "default_channel": "search",
        "data_fingerprint": "fingerprint",
        "git_revision": "revision",
        "training_users": fingerprints(["a", "b"]),
    }
    return TrainedPolicy(**{**fields, **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, MTORL]:
    folder = tmp_path_factory.mktemp("artifacts") / "challenger"
    policy = trained_policy()
    save(folder, policy)
    return folder, policy.network


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


def test_predictions_equal_those_of_the_network(saved):
    folder, network = saved
    loaded = load(folder)
    for rows in (1, 2, 7, 300):
        x_BTD, length_B = loaded.encoder.encode(batch(rows))
        with torch.inference_mode():
            expected = network(torch.from_numpy(x_BTD), torch.from_numpy(length_B))
        heads = loaded.predict(batch(rows))
        for a, b in zip(expected, heads, strict=True):
            assert b.shape == (rows, 4)
            np.testing.assert_allclose(b, a.numpy(), atol=1e-5, rtol=1e-5)
    assert (heads[1] >= 0).all()
    assert (heads[1] <= 1).all()
    assert (heads[2] >= 0).all()


@pytest.mark.long
def test_optional_parts_are_stored_and_protected_by_their_checksums(saved, tmp_path):
    assert load(saved[0]).drift_thresholds() is None and lightgbm.stored_in(load(saved[0])) is None
    rows = STEPS.assign(split="train")
    steps = WindowTable(pa.Table.from_pandas(rows, preserve_index=False), rows, SPEC, "").windows("train", targets=True)
    encoder, size = Encoder.fit(steps, SPEC), Size(50, 90)
    grid = ThresholdGrid.measure(rows, {"hour": "numeric"}, imitations=5)
    trees = lightgbm.fit(steps, steps, encoder, seed=0).calibrated(steps, rows["user_id"])
    own = {"network": MTORL(network_config(encoder)), "encoder": encoder}
    loaded = save(tmp_path / "with", trained_policy(**own, thresholds=grid, yardstick=trees.to_dict()))
    assert loaded.drift_thresholds().at(size, {"hour": "numeric"}) == grid.at(size, {"hour": "numeric"})
    for head, loaded_head in zip(trees.predict(steps), lightgbm.stored_in(loaded).predict(steps), strict=True):
        np.testing.assert_allclose(head, loaded_head, rtol=1e-9)
    for file in (DRIFT_THRESHOLDS, artifact.YARDSTICK):
        folder = shutil.copytree(tmp_path / "with", tmp_path / file)
        (folder / file).write_text("{}")
        with raises(ArtifactError, DAMAGED, file=folder / file):
            load(folder)


def test_a_loaded_artifact_equals_the_saved_policy(saved):
    policy = trained_policy()
    loaded = load(saved[0])
    assert loaded.spec == SPEC
    assert loaded.policy == POLICY
    assert loaded.encoder == policy.encoder
    assert loaded.metrics == policy.metrics
    unnamed = policy.reference.assign(user_id=["reference-0", "reference-1"])
    pd.testing.assert_frame_equal(loaded.reference(), unnamed)
    model = loaded.model
    assert set(model["files"]) == set(FILES)
    assert model["version"] == loaded.digest[:12]
    assert model["schema_version"] == 1 and model["simulated"]
    for name in ("name", "kind", "cost_cap", "default_channel", "data_fingerprint", "git_revision"):
        assert model[name] == getattr(policy, name)
    assert model["feature_service"] == "ad_decision_v1"
    weights = torch.load(saved[0] / "weights.pt", weights_only=True)
    assert set(weights) == set(policy.network.state_dict())


def test_saving_logs_nothing(tmp_path, caplog):
    """The log of a pipeline step would show the messages of libraries."""
    with caplog.at_level("INFO"):
        save(tmp_path / "artifact", trained_policy())
    assert caplog.records == []


@pytest.mark.integration
def test_a_fresh_process_needs_neither_our_class_nor_torch(saved):
    code = f"""
import sys
from mtorl.artifact.artifact import load
from mtorl.window.window import WindowBatch, instance_from_history
loaded = load({str(saved[0])!r})
assert "onnxruntime" not in sys.modules
context = {{"hour": 12.0, "device": "mobile", "placement": "feed"}}
window = instance_from_history({{}}, context, {{}}, loaded.spec, at=0)
logits, reward, cost = loaded.predict(WindowBatch.from_instances([window], loaded.spec))
assert logits.shape == reward.shape == cost.shape == (1, 4)
assert not {{"torch", "mtorl.network.model"}} & set(sys.modules)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_and_a_missing_file_are_found_and_named(copy, file):
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    with raises(ArtifactError, DAMAGED, file=copy / file):
        load(copy)
    (copy / file).unlink()
    with pytest.raises(ArtifactError, match=f"{file}: missing"):
        load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost_cap": {"search": 99.0}}, "model.json: damaged"),
        ({"schema_version": 2}, "schema version 2"),
        ({"files": {"../../etc/passwd": "0"}}, "its list of files is not"),
    ],
)
def test_a_changed_model_file_is_found(copy, change, message):
    model = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**model, **change}))
    with pytest.raises(ArtifactError, match=message):
        load(copy)


@pytest.mark.parametrize("text", ["{", "[]", "null", "\x00", None])
def test_a_folder_without_a_model_file_is_no_artifact(copy, text):
    (copy / "model.json").unlink() if text is None else (copy / "model.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"model\.json"):
        load(copy)


@pytest.mark.parametrize("caps", [{"search": 1.0}, {**dict.fromkeys(SPEC.channels, 1.0), "video": float("nan")}])
def test_every_channel_needs_a_cost_cap(caps):
    with pytest.raises(ArtifactError, match="cost_cap"):
        trained_policy(cost_cap=caps)


def test_a_graph_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    open_graph = artifact.open_graph

    def wrong(path):
        graph = open_graph(path)
        return lambda x_BTD, length_B: tuple(head + 1e-3 for head in graph(x_BTD, length_B))

    monkeypatch.setattr(artifact, "open_graph", wrong)
    with pytest.raises(ArtifactError, match=r"network\.onnx: .* 1$"):
        save(tmp_path / "new", trained_policy())
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_artifact_unchanged(copy):
    before = load(copy).digest
    with pytest.raises(ValueError, match="JSON"):
        save(copy, trained_policy(metrics={"reward_auc": float("nan")}))
    assert load(copy).digest == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def trained(folder: Path, digest: str, users: list[str]) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"name": "challenger", "version": digest[:3], "digest": digest}))
    np.save(folder / "training_users.npy", fingerprints(users))
    return folder


def test_each_model_is_listed_once_with_all_its_folders(tmp_path: Path) -> None:
    first = trained(tmp_path / "a", "123456", ["u1", "u2"])
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    old = trained(tmp_path / "old", "654321", ["u2"])
    assert trained_on([first, copy, old], ["u1", "u3", "u1"]) == [
        TrainedOn("challenger", "123", ("u1",), (first, copy))
    ]
    assert trained_on([first, old], ["u2"])[1] == TrainedOn("challenger", "654", ("u2",), (old,))
    assert trained_on([first, old], ["u4"]) == []
    assert is_artifact(first) and not is_artifact(tmp_path)


def test_an_artifact_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = trained(tmp_path / "a", "123456", ["u1"])
    (folder / "training_users.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match=str(folder)):
        trained_on([folder], ["u1"])
    (folder / "model.json").write_text("{")
    with pytest.raises(ArtifactError, match=str(folder)):
        trained_on([folder], ["u1"])
