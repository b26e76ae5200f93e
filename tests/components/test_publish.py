"""A challenger to its place in the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp.dsl import Artifact

from components.publish import publish

pytestmark = pytest.mark.integration


def test_a_version_is_published_once(challenger: Artifact, model_store: Artifact, tmp_path: Path) -> None:
    place = Path(publish.python_func(challenger, model_store, str(tmp_path)))
    assert place.parent == tmp_path / "challenger"
    assert (place / "artifact" / "model.json").read_bytes() == (Path(challenger.path) / "model.json").read_bytes()
    assert publish.python_func(challenger, model_store, str(tmp_path)) == str(place)


def test_a_model_of_simulated_data_does_not_go_to_a_registry_of_real_ones(
    challenger: Artifact, model_store: Artifact, tmp_path: Path
) -> None:
    other = tmp_path / "incumbent" / "first" / "artifact"
    other.mkdir(parents=True)
    (other / "model.json").write_text('{"simulated": false}')
    with pytest.raises(SystemExit, match=r"^mtorl: .* holds models of a real log, and this model is of simulated data"):
        publish.python_func(challenger, model_store, str(tmp_path))
    assert not (tmp_path / "challenger").exists()
