"""The training pipeline on the folder of `mtorl data build`: run through, answered from before, and done anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from features.data_folder import OwnDecisions, build
from features.engine import open_engine
from features.ingest.log_folder import RawLog
from pipelines.local import InputError
from pipelines.on_volume import Ended, run_on
from pipelines.steps import Step
from tests.pipelines.forked_steps import forked_steps

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
MADE = {"ingest", "build-features", "fit-incumbent", "train-challenger", "evaluate"}


def silent(step: Step, done: float, total: float, note: str) -> None:
    pass


def train(volume: Path, **given: str) -> Ended:
    parameters = {"source": str(volume / "built"), "dataset": "simulator", "epochs": "1", "min_lift": "-9"}
    return run_on(
        volume,
        "train",
        parameters | {"settings": "{hidden: 8, levels: 1, heads: 1}", "shrunk": "accept"} | given,
        silent,
    )


def built(volume: Path, seed: int) -> None:
    """As it is before the first decision: what is decided then is in tests/components/test_built_source.py."""
    with open_engine("duckdb") as engine:
        build(engine, RawLog(users=600, seed=seed), volume / "built", own=OwnDecisions(volume / "collected"))


def test_the_same_build_is_read_once_and_another_one_anew(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    built(volume, seed=7)
    with forked_steps():
        first = train(volume)
        assert first.cached == () and first.steps["gate"].values["Output"] == "promote"
        again = train(volume)
        assert set(again.cached) >= MADE, "nothing is done again"
        shutil.copytree(volume / "built", tmp_path / "copy")
        shutil.rmtree(volume / "built")
        (tmp_path / "copy").rename(volume / "built")  # a build of the same content, as of a night without anything new
        assert set(train(volume).cached) >= MADE

        built(volume, seed=8)
        other = train(volume)
        assert other.cached == ()
        with pytest.raises(InputError, match="users: a built log is taken whole"):
            train(volume, users="20")

    windows = other.steps["build-features"]
    manifest = json.loads((windows.paths["windows"] / "manifest.json").read_text())
    assert manifest == json.loads((volume / "built" / "windows" / "manifest.json").read_text())
    assert windows.values["Output"] == other.steps["ingest"].values["rows"] == manifest["rows"]
    versions = list((volume / "registry" / "challenger").glob("[!.]*/lineage.json"))
    sources = {json.loads(version.read_text())["data"]["log"] for version in versions}
    assert len(versions) == 2 and manifest["log_fingerprint"] in sources, "each says which log it is of"
    assert (volume / "features" / "registry.db").exists()
