"""A feature repository that is made in one place and put in place in another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from features.feature_repo.names import AD_DECISION
from features.offline import store
from features.offline.installation import REGISTRY, install, without_sources
from mtorl.log.dataset import DatasetSpec
from serving.router.flow.features import FeastSource
from serving.router.flow.requests import DecisionRequest

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def log(toy, tmp_path_factory) -> Path:
    return toy.write(toy.log(seed=1), tmp_path_factory.mktemp("log") / "log.parquet")


def made(folder: Path, spec: DatasetSpec, log: Path) -> Path:
    store.create(folder, spec, log)
    without_sources(folder)
    return folder


def test_what_is_installed_serves_features(toy, log, tmp_path):
    place = tmp_path / "volume" / "features"
    repository = made(tmp_path / "made", toy.spec, log)
    assert not list(repository.rglob("*.parquet"))
    assert install(repository, place)
    shutil.rmtree(repository)
    users = store.refresh(place, toy.spec, log)
    assert users == 12
    (known,) = FeastSource(place, AD_DECISION).read([DecisionRequest("u1", "c1", {}, 2_000_000_000_000_000)])
    assert known.static["age"] == "old"


def test_a_registry_is_replaced_only_when_it_defines_something_else(toy, log, tmp_path):
    place = tmp_path / "features"
    assert install(made(tmp_path / "first", toy.spec, log), place)
    before = (place / REGISTRY).read_bytes()
    # Made anew, so with other times and ids inside.
    again = made(tmp_path / "again", toy.spec, log)
    assert (again / REGISTRY).read_bytes() != before
    assert not install(again, place)
    assert (place / REGISTRY).read_bytes() == before
    other = made(tmp_path / "other", toy.spec.replace(window=toy.spec.window + 1, static=(), segment=None), log)
    assert install(other, place)
    assert (place / REGISTRY).read_bytes() == (other / REGISTRY).read_bytes()


def test_settings_that_are_there_stay(toy, log, tmp_path):
    place = tmp_path / "features"
    place.mkdir()
    settings = yaml.safe_load(store.CONFIG.read_text()) | {"online_store": {"type": "redis", "connection_string": "x"}}
    (place / store.CONFIG.name).write_text(yaml.safe_dump(settings))
    assert install(made(tmp_path / "made", toy.spec, log), place)
    assert yaml.safe_load((place / store.CONFIG.name).read_text()) == settings
