"""Windows to the incumbent's artifact."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kfp.dsl import Artifact, Dataset, Model

from components.fit_incumbent.component import fit_incumbent
from mtorl.artifact.artifact import load
from mtorl.log.dataset import DatasetSpec
from tests.components.artifacts import CODE

pytestmark = pytest.mark.integration


def test_the_incumbent_is_an_artifact_that_loads(incumbent: Artifact) -> None:
    loaded = load(Path(incumbent.path))
    assert loaded.model["name"] == "incumbent" and loaded.model["kind"] == "channel-frequency"
    assert incumbent.metadata["digest"] == loaded.digest


def test_a_policy_that_serves_is_the_one_to_beat(windows: Artifact, challenger: Artifact, tmp_path: Path) -> None:
    made = Model("incumbent", uri=str(tmp_path / "incumbent"))
    fit_incumbent.python_func(windows, challenger.path, "", CODE, made)
    assert load(Path(made.path)).digest == made.metadata["digest"] == load(Path(challenger.path)).digest


def test_a_policy_of_other_data_is_no_comparison(windows: Artifact, challenger: Artifact, tmp_path: Path) -> None:
    other = tmp_path / "windows"
    shutil.copytree(windows.path, other)
    DatasetSpec.load(other / "dataset.yaml").replace(window=3).save(other / "dataset.yaml")
    with pytest.raises(SystemExit, match=r"another description of the data: window differ. .*decision_log"):
        fit_incumbent.python_func(Dataset(uri=str(other)), challenger.path, "", CODE, Model(uri=str(tmp_path / "made")))


def test_a_channel_that_the_incumbent_does_not_know_has_a_way_in(
    windows: Artifact, challenger: Artifact, tmp_path: Path
) -> None:
    other = tmp_path / "windows"
    shutil.copytree(windows.path, other)
    spec = DatasetSpec.load(other / "dataset.yaml")
    spec.replace(channels=(*spec.channels, "mail")).save(other / "dataset.yaml")
    with pytest.raises(SystemExit, match=r"channels differ. .*\n.*a channel \(mail\) comes .* docs/data.md, A new"):
        fit_incumbent.python_func(Dataset(uri=str(other)), challenger.path, "", CODE, Model(uri=str(tmp_path / "made")))


def test_a_policy_without_an_artifact_needs_decisions_of_its_own(windows: Artifact, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="the incumbent that serves, baseline, has no artifact and 0 decisions"):
        fit_incumbent.python_func(windows, "", "baseline", CODE, Model(uri=str(tmp_path / "made")))
