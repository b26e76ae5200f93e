from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.serving.ledgers import Place
from tests.serving.router_fixtures import made_feast_repo, running


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Posts bodies to one router, which must still decide afterwards."""
    runner = asyncio.Runner()
    context = running(tmp_path_factory.mktemp("router"))
    harness = runner.run(context.__aenter__())
    yield lambda path, body, **options: runner.run(harness.post(path, body, **options))
    (answer,) = runner.run(harness.predict())
    assert answer["expose"] and len(harness.records()) == 1
    runner.run(context.__aexit__(None, None, None))
    runner.close()


@pytest.fixture(scope="module")
def feast_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_feast_repo(tmp_path_factory.mktemp("feast"))


@pytest.fixture
def folder(feast_repo: Path, tmp_path: Path) -> Path:
    (tmp_path / "features").symlink_to(feast_repo)
    return tmp_path


@pytest.fixture
def ledger(place: Place) -> str:
    """Where the router of a test keeps its accounts: see `with_router`."""
    return place.where
