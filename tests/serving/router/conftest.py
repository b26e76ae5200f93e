import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.serving.ledgers import Place
from tests.serving.router_fixtures import made_feast_repo, running


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Yield a function that posts bodies to a router.

    After the tests, the router must still decide, and earlier requests must not hold any resources.
    """
    runner = asyncio.Runner()
    context = running(tmp_path_factory.mktemp("router"))
    h = runner.run(context.__aenter__())
    yield lambda path, body, **options: runner.run(h.post(path, body, **options))
    (answer,) = runner.run(h.predict())
    assert answer["expose"] and len(h.records()) == 1
    assert h.ledger.open_reservations() == [answer["decision_id"]] and not h.router.decider.cache._pending
    assert (h.gateway.readers, h.gateway.decisions.inside, h.router.outcome_admission.inside) == (0, 0, 0)
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
    return place.where
