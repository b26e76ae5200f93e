"""Windows to the incumbent's artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp.dsl import Artifact

from mtorl.artifact.artifact import load

pytestmark = pytest.mark.integration


def test_the_incumbent_is_an_artifact_that_loads(incumbent: Artifact) -> None:
    loaded = load(Path(incumbent.path))
    assert loaded.model["name"] == "incumbent" and loaded.model["kind"] == "channel-frequency"
    assert incumbent.metadata["digest"] == loaded.digest
