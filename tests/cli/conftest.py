"""Fixtures for the tests of several commands: a small log and its data set description."""

from pathlib import Path

import pandas as pd
import pytest

from mtorl.log.dataset import DatasetSpec
from mtorl.simulator.simulator import Simulator, SimulatorConfig


@pytest.fixture(scope="session")
def log() -> pd.DataFrame:
    return Simulator(SimulatorConfig(users=40, seed=1)).log()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    content = DatasetSpec.load("simulator").to_dict() | {"name": "mine", "adapter": "touchpoints"}
    path = tmp_path / "my-log.yaml"
    DatasetSpec.from_dict(content).save(path)
    return path
