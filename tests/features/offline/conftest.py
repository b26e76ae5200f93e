import itertools
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from features.offline import store
from tests.features.feature_run import FeatureRun
from tests.redis_server import redis_server

_folders = itertools.count()


@pytest.fixture
def make(toy, tmp_path, redis_port):
    def run(log: pd.DataFrame, kind: str = "sqlite", **changes: Any) -> FeatureRun:
        port = redis_port if kind == "redis" else 0
        return FeatureRun(toy, tmp_path / str(next(_folders)), log, toy.spec.replace(**changes), port).create()

    return run


@pytest.fixture(scope="module")
def finished_run(toy, tmp_path_factory) -> FeatureRun:
    """Return a run with windows and online features. Tests must not change it."""
    run = FeatureRun(toy, tmp_path_factory.mktemp("finished_run"), toy.log(seed=3), toy.spec).create()
    run.build()
    store.materialize(run.root, run.spec, run.path)
    return run


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port
