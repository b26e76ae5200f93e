"""Windows to the challenger's artifact, its metrics, and what a volume keeps of the training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kfp.dsl import Artifact, Metrics, Model

from components.train_challenger.component import train_challenger
from components.trainer.train_job import Pods
from mtorl.artifact.artifact import load
from mtorl.network.training import TrainConfig
from tests.components.artifacts import CODE, Output
from tests.components.trainer.trainer_cluster import TrainerCluster

pytestmark = pytest.mark.integration


def test_the_challenger_is_an_artifact_that_loads(challenger: Artifact) -> None:
    loaded = load(Path(challenger.path))
    assert loaded.model["name"] == "challenger" and loaded.model["kind"] == "mtorl"
    assert challenger.metadata["digest"] == loaded.digest


def test_its_metrics_are_on_the_page_and_in_the_file(challenger: Artifact) -> None:
    metrics = challenger.metadata["metrics"]
    assert json.loads(Path(metrics.path).read_text()) == metrics.metadata
    assert metrics.metadata["best_val_loss"] == challenger.metadata["returned"]


def test_the_volume_keeps_its_curves_and_no_checkpoint(challenger: Artifact, volume: Path) -> None:
    assert list((volume / "tensorboard").rglob("events.out.tfevents.*"))
    assert not [file for file in volume.rglob("*.pt*") if file.is_file()]


def test_it_trains_with_the_settings_of_a_search(
    windows: Artifact, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text that `mtorl search` writes; a training is not needed to see what it would have been."""
    seen: list[TrainConfig] = []

    def stop(windows: str, out: str, config: TrainConfig, *rest: object) -> None:
        seen.append(config)
        raise StopIteration

    monkeypatch.setattr("mtorl.fitting.fit.fit_challenger", stop)
    text = "# Trial 3\nlr: 0.01\nhidden: 32\n"
    for settings in ("", text):
        with pytest.raises(StopIteration):
            train(windows, settings, output)
    assert seen == [TrainConfig(epochs=1, seed=7), TrainConfig(epochs=1, seed=7, lr=0.01, hidden=32)]


def test_settings_that_cannot_be_end_the_step_with_words(windows: Artifact, output: Output) -> None:
    with pytest.raises(SystemExit, match="mtorl: settings: unknown name 'width'; known: lr, "):
        train(windows, "width: 64", output)


@pytest.mark.long
def test_several_nodes_are_a_train_job(
    windows: Artifact, volume: Path, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.trainer.train_job.TOUCHPOINTS_PER_PROCESS", 1)
    pods = Pods(2, 0, "train:1", "mtorl-data", str(volume), 10001, "", "1", "2", "4Gi")
    with TrainerCluster() as cluster:
        cluster.use(monkeypatch)
        cluster.play = cluster.run_pods
        model, metrics = output(Model, "challenger"), output(Metrics, "metrics")
        train_challenger.python_func(windows, 1, 7, 0.6, "", CODE, str(volume), pods.text(), model, metrics)
    (made,) = cluster.created
    assert made["spec"]["trainer"]["numNodes"] == 2
    assert load(Path(model.path)).digest == model.metadata["digest"]
    assert not list((volume / "shared").iterdir())


def test_pods_of_its_own_need_a_volume(windows: Artifact, output: Output) -> None:
    pods = Pods(2, 0, "train:1", "mtorl-data", "/mnt/mtorl", 10001, "", "1", "2", "4Gi").text()
    with pytest.raises(SystemExit, match="mtorl: a training in pods of its own needs a volume"):
        train(windows, "", output, pods)


def train(windows: Artifact, settings: str, output: Output, pods: str = "") -> None:
    model, metrics = output(Model, "challenger"), output(Metrics, "metrics")
    train_challenger.python_func(windows, 1, 7, 0.6, settings, CODE, "", pods, model, metrics)
