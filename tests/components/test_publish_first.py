"""A first model for each arm, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp.dsl import Artifact

from components.publish_first.component import publish_first
from mtorl.artifact.lineage import Lineage
from serving.registry import FIRST, first_models

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("decision", ["promote", "reject"])
def test_each_arm_has_one_and_keeps_it(
    decision: str, incumbent: Artifact, challenger: Artifact, evaluation: Artifact, tmp_path: Path
) -> None:
    def published(decision: str) -> str:
        known = {"users": 0, "epochs": 1, "seed": 7, "budget_share": 0.6, "settings": ""}
        run = {"run_name": "first night", "run_id": "17"}
        return publish_first.python_func(
            incumbent, challenger, evaluation, decision, str(tmp_path), 0.0, "raw", "", **known, **run
        )

    said = published(decision)
    assert said.count("published") == 2 and ("A/A test" in said) == (decision == "reject")
    digests = {place.parent.name: digest for place, digest in first_models(tmp_path).items()}
    wanted = challenger if decision == "promote" else incumbent
    assert digests == {"incumbent": incumbent.metadata["digest"], "challenger": wanted.metadata["digest"]}
    for arm, digest in digests.items():
        lineage = Lineage.read(tmp_path / arm / FIRST)
        assert (lineage.digest, lineage.run.id) == (digest, "17")
        assert bool(lineage.gate) == bool(lineage.parents) == (digest == challenger.metadata["digest"])
    other = "reject" if decision == "promote" else "promote"
    again = published(other)
    assert again.count("was there") == 2
    assert {place.parent.name: digest for place, digest in first_models(tmp_path).items()} == digests
