"""The first installation: what is on the volume afterwards, again, after a stop, and when it can't be done."""

from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mtorl.evaluation.offline as offline
import mtorl.fitting.fit as fit
from mtorl.artifact.artifact import load
from mtorl.log.dataset import DatasetSpec
from pipelines.bootstrap import ARMS, Bootstrap, BootstrapError, Bootstrapped, bootstrap
from serving.registry import RegistryError


def small(volume: Path, **changes: Any) -> Bootstrap:
    return replace(Bootstrap(volume=volume, simulate=True, users=150, epochs=1), **changes)


def run(config: Bootstrap) -> Bootstrapped:
    return bootstrap(config, lambda step, done, total, note: None)


def content(volume: Path) -> dict[str, int]:
    """Each file and when it was written."""
    return {str(path.relative_to(volume)): path.stat().st_mtime_ns for path in volume.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bootstrapped]:
    volume = tmp_path_factory.mktemp("volume")
    return volume, run(small(volume))


@pytest.mark.integration
def test_everything_is_there_that_must_be_before_a_decision(finished: tuple[Path, Bootstrapped]) -> None:
    volume, done = finished
    assert done.published == ARMS and done.gate in ("promote", "reject")
    for arm in ARMS:
        place = volume / "registry" / arm / "first"
        assert load(place / "artifact").digest == done.digests[arm]
        assert (place / "model-store" / f"{arm}.mar").exists()
    assert (volume / "features" / "registry.db").exists()
    log = pd.read_parquet(volume / "touchpoints.parquet")
    assert pd.Timestamp.now("UTC") - log["timestamp"].max() < pd.Timedelta(days=2), "else no user has recent features"
    assert {path.name for path in (volume / "bootstrap").iterdir()} > {"lock"}
    assert not list((volume / "bootstrap").glob("*/windows")) and not (volume / "bootstrap" / "log").exists()


@pytest.mark.integration
def test_running_it_again_changes_nothing(finished: tuple[Path, Bootstrapped]) -> None:
    volume, done = finished
    before = content(volume)
    assert run(small(volume, seed=8)) == Bootstrapped(done.digests)
    assert content(volume) == before


@pytest.mark.integration
def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit.fit_challenger
    monkeypatch.setattr(fit, "fit_challenger", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(small(tmp_path))
    assert not (tmp_path / "registry").exists(), "nothing is served of a half-done installation"
    (work,) = [path for path in (tmp_path / "bootstrap").iterdir() if (path / "incumbent").exists()]
    before = content(work)
    monkeypatch.setattr(fit, "fit_challenger", fitted)
    monkeypatch.setattr(fit, "fit_incumbent", None)  # would fail: it has been fitted
    assert run(small(tmp_path)).published == ARMS
    assert {name: time for name, time in content(work).items() if name.startswith("incumbent/")} == {
        name: time for name, time in before.items() if name.startswith("incumbent/")
    }


@pytest.mark.integration
def test_a_challenger_that_the_gate_rejects_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "gate_from_file", lambda *_: ("reject", "it must"))
    done = run(small(tmp_path))
    assert done.gate == "reject" and done.digests["challenger"] == done.digests["incumbent"]
    assert (tmp_path / "registry" / "challenger" / "first" / "model-store" / "challenger.mar").exists()


@pytest.mark.integration
def test_a_volume_is_set_up_for_one_data_set(finished: tuple[Path, Bootstrapped], tmp_path: Path) -> None:
    volume, _ = finished
    before = content(volume)
    other = DatasetSpec.load("simulator").replace(name="another")
    other.save(tmp_path / "another.yaml")
    with pytest.raises(BootstrapError, match="is a model of the data set 'simulator', not of 'another'"):
        run(small(volume, dataset=str(tmp_path / "another.yaml")))
    real = other.replace(adapter="touchpoints")
    real.save(tmp_path / "real.yaml")
    with pytest.raises(RegistryError, match="holds models of simulated data"):
        run(small(volume, dataset=str(tmp_path / "real.yaml"), simulate=False))
    with pytest.raises(BootstrapError, match="--simulate: 'another' is not the simulator's"):
        run(small(volume, dataset=str(tmp_path / "real.yaml")))
    assert content(volume) == before


@pytest.mark.integration
def test_features_that_serve_stay(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "registry.db").write_bytes(b"those of a pipeline")
    assert run(small(tmp_path)).published == ARMS
    assert (tmp_path / "features" / "registry.db").read_bytes() == b"those of a pipeline"


def test_without_a_log_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BootstrapError, match=r"no touchpoint log at .*touchpoints.parquet: .*--log.*--simulate"):
        run(small(tmp_path, simulate=False))


def test_two_at_once_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "bootstrap").mkdir()
    with (tmp_path / "bootstrap" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BootstrapError, match="another bootstrap"):
            run(small(tmp_path))


def test_a_volume_that_is_not_ours_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: the tests may run as root, who may write everywhere."""

    monkeypatch.setattr(os, "access", lambda *_: False)
    owner = tmp_path.stat()
    with pytest.raises(BootstrapError) as error:
        run(small(tmp_path))
    assert f"belongs to {owner.st_uid}:{owner.st_gid}, mode {stat.S_IMODE(owner.st_mode):o}" in str(error.value)
    assert "10001:10001" in str(error.value)
    with pytest.raises(BootstrapError, match="is not there"):
        monkeypatch.undo()
        run(small(tmp_path / "nowhere"))


def test_steps_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []
    monkeypatch.setattr(fit, "fit_incumbent", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        bootstrap(small(tmp_path, users=40), lambda step, done, total, note: seen.append((step.name, done)))
    assert [name for name, done in seen if not done][:2] == ["ingest", "build-features"]
