"""Definitions of the features to where servers look for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp.dsl import Artifact

from components.install_features import install_features

pytestmark = pytest.mark.integration


def test_definitions_are_installed_once(windows: Artifact, definitions: Artifact, tmp_path: Path) -> None:
    assert install_features.python_func(definitions, str(tmp_path / "features"))
    assert (tmp_path / "features" / "registry.db").exists()
    assert not install_features.python_func(definitions, str(tmp_path / "features"))


def test_a_folder_that_may_not_be_written_is_named(windows: Artifact, definitions: Artifact, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="features"):
        install_features.python_func(definitions, str(tmp_path / "features"))
