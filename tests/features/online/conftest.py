import itertools
from collections.abc import Iterator

import pytest

from tests.features.online_histories import SPEC, OnlineStore
from tests.features.online_stores import STORES, apply_history, write_settings
from tests.redis_server import redis_server


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, OnlineStore]]:
    folder = tmp_path_factory.mktemp("online")
    with redis_server(folder) as port:
        made = {}
        for kind in STORES:
            write_settings(folder / kind, kind, port)
            made[kind] = OnlineStore(kind, folder / kind, apply_history(folder / kind, SPEC), port)
        yield made
        for store in made.values():
            store.history.store.close()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, stores: dict[str, OnlineStore]) -> OnlineStore:
    return stores[request.param]


@pytest.fixture(scope="session")
def user_ids() -> Iterator[str]:
    return (f"user {i}" for i in itertools.count())


@pytest.fixture
def user(user_ids: Iterator[str]) -> str:
    return next(user_ids)
