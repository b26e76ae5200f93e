"""Tests of the pipeline steps between the validated log and the served model."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kfp.dsl import Artifact, Dataset, Metrics, Model

import serving.deployment
import serving.inference_services
import serving.kubernetes_api
from components.deploy.component import deploy
from components.evaluate.component import evaluate
from components.fit_incumbent.component import fit_incumbent
from components.gate.component import gate
from components.install_features.component import install_features
from components.package.component import package
from components.publish_first.component import publish_first
from components.smoke_test.component import smoke_test
from components.train_challenger.component import train_challenger
from components.trainer.train_job import Pods
from mtorl.artifact.artifact import load
from mtorl.artifact.lineage import GateReport, Lineage
from mtorl.log.dataset import DatasetSpec
from mtorl.log.trainings import newest
from mtorl.network.training import TrainConfig
from serving.deployment import DeployError
from serving.registry import ARMS, FIRST, publish, published_digest
from tests.components.artifacts import CODE, Output
from tests.components.trainer.trainer_cluster import TrainerCluster
from tests.serving.small_versions import lineage_of

pytestmark = pytest.mark.integration


def test_every_touchpoint_has_a_window_and_definitions_are_installed_once(
    log: Artifact, windows: Artifact, definitions: Artifact, tmp_path: Path
) -> None:
    rows = len(pd.read_parquet(Path(log.path) / "touchpoints.parquet"))
    manifest = json.loads((Path(windows.path) / "manifest.json").read_text())
    assert windows.metadata["returned"] == manifest["rows"] == rows
    assert install_features.python_func(definitions, str(tmp_path))
    assert (tmp_path / "registry.db").exists() and not list(tmp_path.rglob("*.parquet")), "sources stay behind"
    assert not install_features.python_func(definitions, str(tmp_path))


def test_the_serving_policy_is_the_one_to_beat(
    windows: Artifact, challenger: Artifact, incumbent: Artifact, tmp_path: Path
) -> None:
    assert load(Path(incumbent.path)).model["kind"] == "channel-frequency", "before any model serves"
    made = Model("incumbent", uri=str(tmp_path / "incumbent"))
    fit_incumbent.python_func(windows, challenger.path, "", CODE, made)
    assert load(Path(made.path)).digest == made.metadata["digest"] == challenger.metadata["digest"]
    other = tmp_path / "windows"
    shutil.copytree(windows.path, other)
    spec = DatasetSpec.load(other / "dataset.yaml")
    for changed, words in (
        (spec.replace(window=3), "another data set description: window differ"),
        (spec.replace(channels=(*spec.channels, "mail")), r"(?s)channels differ.*a channel \(mail\) to serving"),
    ):
        changed.save(other / "dataset.yaml")
        with pytest.raises(SystemExit, match=words):
            fit_incumbent.python_func(Dataset(uri=str(other)), challenger.path, "", CODE, made)
    with pytest.raises(SystemExit, match="0 of 500"):
        fit_incumbent.python_func(windows, "", "baseline", CODE, Model(uri=str(tmp_path / "logged")))


def test_the_challenger_has_metrics_and_leaves_no_checkpoint(challenger: Artifact, volume: Path) -> None:
    loaded, metrics = load(Path(challenger.path)), challenger.metadata["metrics"]
    assert (loaded.model["kind"], loaded.digest) == ("mtorl", challenger.metadata["digest"])
    assert json.loads(Path(metrics.path).read_text()) == metrics.metadata
    assert metrics.metadata["best_val_loss"] == challenger.metadata["returned"]
    assert list((volume / "tensorboard").rglob("events.out.tfevents.*"))
    assert not [file for file in volume.rglob("*.pt*") if file.is_file()]


def train(windows: Artifact, settings: str, output: Output, volume: str = "", pods: str = "") -> Artifact:
    model, metrics = output(Model, "challenger"), output(Metrics, "metrics")
    train_challenger.python_func(windows, 1, 7, 0.6, settings, CODE, volume, pods, model, metrics)
    return model


def pods_on(volume: str) -> str:
    return Pods(2, 0, "train:1", volume, "1", "2", "4Gi", seconds=3600).text()


def test_it_uses_the_settings_of_a_search(windows: Artifact, output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """To save time, a function that records its configuration replaces the training."""
    seen: list[TrainConfig] = []

    def stop(windows: str, out: str, config: TrainConfig, *rest: object) -> None:
        seen.append(config)
        raise StopIteration

    monkeypatch.setattr("mtorl.fitting.fit.fit_challenger", stop)
    for settings in ("", "# Trial 3\nlr: 0.01\nhidden: 32\n"):
        with pytest.raises(StopIteration):
            train(windows, settings, output)
    assert seen == [TrainConfig(epochs=1, seed=7), TrainConfig(epochs=1, seed=7, lr=0.01, hidden=32)]
    with pytest.raises(SystemExit, match="'width'"):
        train(windows, "width: 64", output)


@pytest.mark.long
def test_nodes_use_a_trainjob(windows: Artifact, volume: Path, output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.trainer.train_job.TOUCHPOINTS_PER_PROCESS", 1)
    with TrainerCluster() as cluster:
        cluster.use(monkeypatch)
        cluster.play = cluster.run_pods
        model = train(windows, "", output, str(volume), pods_on(str(volume)))
    (made,) = cluster.created
    assert made["spec"]["trainer"]["numNodes"] == 2
    assert load(Path(model.path)).digest == model.metadata["digest"]
    assert not list((volume / "shared").iterdir())


def test_both_policies_are_valued_and_the_metrics_are_the_challengers(evaluation: Artifact) -> None:
    figures, metrics = json.loads(Path(evaluation.path).read_text()), evaluation.metadata["metrics"]
    low, high = figures["value"]["difference_ci"]
    assert low <= figures["value"]["difference"] <= high and "incumbent" in figures
    own = {k: value for k, value in figures["challenger"].items() if isinstance(value, float)}
    assert metrics.metadata == {**own, "test_share": 1.0}
    assert json.loads(Path(metrics.path).read_text()) == metrics.metadata


def test_exposures_without_a_propensity_are_no_fault(
    windows: Artifact, challenger: Artifact, incumbent: Artifact, output: Output, tmp_path: Path
) -> None:
    """An arm that logs no probabilities leaves exposures without a propensity, which the evaluation skips."""
    folder = tmp_path / "windows"
    shutil.copytree(windows.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["shards"]:
        steps = pd.read_parquet(folder / shard["file"])
        steps.loc[::2, "propensity"] = None
        steps.to_parquet(folder / shard["file"], index=False)
        shard["sha256"] = hashlib.sha256((folder / shard["file"]).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    made, source = output(Artifact, "evaluation"), Dataset(uri=str(folder))
    evaluate.python_func(source, challenger, incumbent, 0.6, 7, CODE, made, output(Metrics, "metrics"))
    figures = json.loads(Path(made.path).read_text())
    assert 0.4 * figures["test_rows"] < figures["value"]["rows"] < 0.6 * figures["test_rows"]


def test_archives_contain_their_artifacts_and_can_decide(
    model_store: Artifact, challenger: Artifact, incumbent: Artifact, output: Output, tmp_path: Path
) -> None:
    for name, artifact in (("challenger", challenger), ("incumbent", incumbent)):
        with zipfile.ZipFile(Path(model_store.path) / f"{name}.mar") as archive:
            assert archive.read("artifact/model.json") == (Path(artifact.path) / "model.json").read_bytes()
    said = smoke_test.python_func(model_store)
    assert "incumbent: " in said and f"digest {challenger.metadata['digest'][:12]}" in said

    (tmp_path / "logged_incumbent.json").write_text('{"policy": "baseline"}')
    alone = output(Artifact, "model_store")
    package.python_func(challenger, Model(uri=str(tmp_path)), alone)
    (damaged,) = Path(alone.path).iterdir()
    assert damaged.name == "challenger.mar", "an external incumbent has no archive"
    with zipfile.ZipFile(damaged) as content:
        files = {name: content.read(name) for name in content.namelist()}
    with zipfile.ZipFile(damaged, "w") as content:
        for name, data in files.items():
            content.writestr(name, data[: len(data) // 2] if name.endswith(".onnx") else data)
    with pytest.raises(SystemExit, match=r"challenger\.mar"):
        smoke_test.python_func(alone)


@pytest.mark.parametrize(
    ("incumbent_is", "margin", "answer"),
    [("external", 0.9, "reject"), ("own_model", 0.9, "promote"), ("own_model", 0.0, "experiment")],
)
def test_the_gate_decides_by_its_settings_and_records_it(
    evaluation: Artifact, log: Artifact, incumbent_is: str, margin: float, answer: str, output: Output, tmp_path: Path
) -> None:
    figures = json.loads(Path(evaluation.path).read_text())
    assert figures["incumbent_is"] == "external", "channel frequencies represent it"
    figures["value"] |= {"difference": 0.05, "difference_ci": [-0.02, 0.08]}
    changed, report = output(Artifact, "evaluation"), output(Artifact, "report")
    Path(changed.path).write_text(json.dumps(figures | {"incumbent_is": incumbent_is}))
    for history in (str(tmp_path), ""):
        assert gate.python_func(changed, log, 0.03, margin, history, report) == answer
    found = GateReport.model_validate_json(Path(report.path).read_text())
    assert (found.decision, found.margin) == (answer, None if incumbent_is == "external" else margin)
    noted = newest(tmp_path)
    assert noted is not None and noted.decision == answer
    assert (noted.lift, noted.lift_ci) == (0.05, (-0.02, 0.08))
    assert sum(noted.log.days.values()) == json.loads((Path(log.path) / "ingest.json").read_text())["rows"]


@pytest.mark.parametrize("decision", ["promote", "reject"])
def test_each_arm_has_a_first_model_and_keeps_it(
    decision: str, incumbent: Artifact, challenger: Artifact, evaluation: Artifact, judged: Artifact, tmp_path: Path
) -> None:
    def published(decision: str) -> tuple[str, dict[str, str | None]]:
        known = {"users": 0, "epochs": 1, "seed": 7, "budget_share": 0.6, "settings": ""}
        given = (incumbent, challenger, evaluation, judged, decision, str(tmp_path), "raw", "")
        said = publish_first.python_func(*given, **known, run_name="first night", run_id="17")
        return said, {arm: published_digest(tmp_path / arm / FIRST) for arm in ARMS}

    said, digests = published(decision)
    assert said.count("published") == 2 and ("A/A test" in said) == (decision == "reject")
    wanted = challenger if decision == "promote" else incumbent
    assert digests == {"incumbent": incumbent.metadata["digest"], "challenger": wanted.metadata["digest"]}
    for arm, digest in digests.items():
        lineage = Lineage.read(tmp_path / arm / FIRST)
        assert (lineage.digest, lineage.run.id) == (digest, "17")
        assert bool(lineage.gate) == bool(lineage.parents) == (digest == challenger.metadata["digest"])
    again, kept = published("reject" if decision == "promote" else "promote")
    assert again.count("unchanged") == 2 and kept == digests


def test_a_published_version_is_rolled_out(
    challenger: Artifact, model_store: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage = lineage_of(load(challenger.path).model)
    folder = publish(Path(challenger.path), Path(model_store.path) / "challenger.mar", tmp_path, "challenger", lineage)
    monkeypatch.setattr(serving.kubernetes_api, "KubernetesApi", lambda retries: f"an API, {retries} retries")
    monkeypatch.setattr(serving.inference_services, "InferenceServices", lambda api: f"servers of {api}")
    asked: list[Any] = []

    def rolled_out(servers: Any, arm: str, version: str, artifact: Any, experiments: Any, seconds: float) -> str:
        asked.append((servers, arm, version, artifact.digest, experiments, seconds))
        if len(asked) > 1:
            raise DeployError("a reason")
        return "it serves"

    monkeypatch.setattr(serving.deployment, "deploy", rolled_out)
    assert deploy.python_func(str(folder), str(tmp_path / "none"), 60) == "it serves"
    digest, servers = challenger.metadata["digest"], "servers of an API, 3 retries"
    assert asked == [(servers, "challenger", f"challenger/{folder.name}", digest, [], 60)]
    with pytest.raises(SystemExit, match="mtorl: a reason"):
        deploy.python_func(str(folder), str(tmp_path / "none"), 60)
