"""Definitions of the features to where servers look for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp.dsl import Artifact

from components.install_features.component import install_features

pytestmark = pytest.mark.integration


def test_definitions_are_installed_once(windows: Artifact, definitions: Artifact, tmp_path: Path) -> None:
    assert install_features.python_func(definitions, str(tmp_path / "features"))
    assert (tmp_path / "features" / "registry.db").exists()
    assert not install_features.python_func(definitions, str(tmp_path / "features"))
