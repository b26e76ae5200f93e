"""Tests that a first installation fills the volume, and a second one changes nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cli.main import app
from mtorl.artifact.artifact import load
from mtorl.log.dataset import DatasetSpec
from mtorl.log.trainings import newest
from serving.registry import ARMS, FIRST, published_digest
from tests.pipelines.forked_steps import forked_steps

SMALL = ("dataset=simulator", "users=150", "epochs=1")


@pytest.fixture(scope="module", autouse=True)
def quick_steps() -> Iterator[None]:
    with forked_steps():
        yield


def run(volume: Path, pipeline: str, *parameters: str) -> tuple[int, str]:
    words = [word for one in (*SMALL, *parameters) for word in ("-p", one)]
    answer = CliRunner().invoke(app, ["pipeline", "run", pipeline, "--volume", str(volume), *words])
    return answer.exit_code, answer.output


def bootstrap(volume: Path, *parameters: str) -> tuple[int, str]:
    return run(volume, "bootstrap", *parameters)


def content(volume: Path) -> dict[str, int]:
    return {str(path.relative_to(volume)): path.stat().st_mtime_ns for path in volume.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    volume = tmp_path_factory.mktemp("volume")
    code, said = bootstrap(volume, "simulate=true")
    assert code == 0, said
    return volume, said


@pytest.mark.integration
def test_everything_that_a_decision_needs_is_installed(finished: tuple[Path, str]) -> None:
    volume, said = finished
    digests = {place: published_digest(place) for place in (volume / "registry" / arm / FIRST for arm in ARMS)}
    for place, digest in digests.items():
        assert digest is not None and load(place / "artifact").digest == digest
        assert (place / "model-store" / f"{place.parent.name}.mar").exists()
        assert f"{place}: published, digest {digest[:12]}" in said
    assert len(set(digests.values())) == 1, "with 150 users no gain is significant, so both arms serve the incumbent"
    assert (volume / "features" / "registry.db").exists()
    log = pd.read_parquet(volume / "touchpoints.parquet")
    assert pd.Timestamp.now("UTC") - log["timestamp"].max() < pd.Timedelta(days=2), "the log must be recent"
    noted = newest(volume / "trainings")
    assert noted is not None and noted.decision == "reject" and sum(noted.log.days.values()) == len(log), (
        "the next night is compared with this log"
    )
    assert json.loads((volume / "runs" / "mtorl-bootstrap.json").read_text())["state"] == "SUCCEEDED"
    before = content(volume / "registry")
    code, said = bootstrap(volume, "simulate=true")
    assert code == 0 and said.count(": unchanged, ") == 2 and content(volume / "registry") == before
    assert "from earlier runs" in said


@pytest.mark.integration
def test_the_next_night_reuses_steps_of_the_first_installation(finished: tuple[Path, str]) -> None:
    volume, _ = finished
    code, said = run(volume, "train", f"source={volume / 'touchpoints.parquet'}")
    assert code == 0, said
    cached = said.split("unchanged inputs: ")[1].splitlines()[0].split(", ")
    assert {"ingest", "build-features", "train-challenger", "evaluate"} <= set(cached)


@pytest.mark.integration
def test_a_volume_is_set_up_for_one_data_set(finished: tuple[Path, str], tmp_path: Path) -> None:
    volume, _ = finished
    registry = content(volume / "registry")
    other = DatasetSpec.load("simulator").replace(name="another")
    other.save(tmp_path / "another.yaml")
    real = other.replace(adapter="touchpoints")
    real.save(tmp_path / "real.yaml")
    for name, options, words in (
        ("another.yaml", ["simulate=true"], "has models of the data set 'simulator', not of the data set 'another'"),
        ("real.yaml", [], "has models of simulated data"),
    ):
        code, said = bootstrap(volume, f"dataset={tmp_path / name}", *options)
        assert code == 2 and words in said
    assert content(volume / "registry") == registry


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "touchpoints.parquet. Write a log there in the layout of docs/data.md"),
        (["simulate=true", "dataset={real}"], "simulate: 'simulator' is not the simulator's data set"),
        (["log=nowhere.csv"], "nowhere.csv: no such file"),
    ],
)
def test_a_missing_log_is_reported_with_instructions(tmp_path: Path, options: list[str], words: str) -> None:
    DatasetSpec.load("simulator").replace(adapter="touchpoints").save(tmp_path / "real.yaml")
    code, said = bootstrap(tmp_path / "volume", *(one.format(real=tmp_path / "real.yaml") for one in options))
    assert code == 2 and words in said.replace("\n", " ")
    assert not (tmp_path / "volume" / "registry").exists()
