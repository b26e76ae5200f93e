"""A first model for each arm, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp.dsl import Artifact

from components.publish_first import publish_first
from serving.registry import first_models

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("decision", ["promote", "reject"])
def test_each_arm_has_one_and_keeps_it(
    decision: str, incumbent: Artifact, challenger: Artifact, tmp_path: Path
) -> None:
    said = publish_first.python_func(incumbent, challenger, decision, str(tmp_path))
    assert said.count("published") == 2 and ("A/A test" in said) == (decision == "reject")
    digests = {place.parent.name: digest for place, digest in first_models(tmp_path).items()}
    wanted = challenger if decision == "promote" else incumbent
    assert digests == {"incumbent": incumbent.metadata["digest"], "challenger": wanted.metadata["digest"]}
    other = "reject" if decision == "promote" else "promote"
    again = publish_first.python_func(incumbent, challenger, other, str(tmp_path))
    assert again.count("was there") == 2
    assert {place.parent.name: digest for place, digest in first_models(tmp_path).items()} == digests
