from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from features import store
from features.sources import build_sources

FOLDER = Path(store.__file__).parent / "feature_repo"


@pytest.fixture
def repository(tmp_path) -> Path:
    """The folder as it is in a fresh checkout."""
    ignore = shutil.ignore_patterns("data", "registry.db", "online.db*", "__pycache__")
    return Path(shutil.copytree(FOLDER, tmp_path / "feature_repo", ignore=ignore))


def feast(repository: Path, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("feast")), *words],
        cwd=repository,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def described(root: Path) -> dict[str, object]:
    from feast import FeatureStore

    opened = FeatureStore(repo_path=str(root))
    views = {
        view.name: (
            {field.name: str(field.dtype) for field in view.schema},
            view.tags,
            view.ttl,
            Path(view.batch_source.path).name,
        )
        for view in opened.list_feature_views()
    }
    services = {
        service.name: {p.name: sorted(f.name for f in p.features) for p in service.feature_view_projections}
        for service in opened.list_feature_services()
    }
    return {"views": views, "services": services, "entities": [e.name for e in opened.list_entities()]}


@pytest.mark.integration
def test_apply_and_materialize_from_the_command_line(toy, tmp_path, repository):
    log = toy.write(toy.log(seed=6), tmp_path / "log.parquet")
    toy.spec.save(tmp_path / "toy.yaml")
    build_sources(log, toy.spec, repository / "data")
    environment = {"MTORL_DATASET": str(tmp_path / "toy.yaml")}
    applied = feast(repository, "apply", **environment)
    for thing in ("entity user", "feature view user_history", "feature view user_static", "service ad_decision_v1"):
        assert f"Created {thing}" in applied or f"Created feature {thing}" in applied
    feast(repository, "materialize", "1970-01-01T00:00:00", "2100-01-01T00:00:00", **environment)

    store.create(tmp_path / "features", toy.spec, log)
    store.materialize(tmp_path / "features")
    assert described(repository) == described(tmp_path / "features")

    from feast import FeatureStore

    one, other = FeatureStore(repo_path=str(repository)), FeatureStore(repo_path=str(tmp_path / "features"))
    for user in toy.log(seed=6)["user_id"].unique():
        read = [store.online_features(s, s.get_feature_service(store.SERVICE), user) for s in (one, other)]
        assert str(sorted(read[0][0].items())) == str(sorted(read[1][0].items()))
        assert str(sorted(read[0][1].items())) == str(sorted(read[1][1].items()))


@pytest.mark.integration
def test_apply_needs_neither_data_nor_settings(repository):
    applied = feast(repository, "apply")
    assert "Created feature view user_history" in applied
    assert "hist_hour" in str(described(repository)["views"])


@pytest.mark.parametrize("name", ["simulator", "kuairand-sequence", "criteo-sequence"])
def test_every_built_in_data_set_can_be_defined(name, tmp_path):
    from features.feature_repo.views import build
    from mtorl.dataset import DatasetSpec

    spec = DatasetSpec.load(name)
    made = build(spec, tmp_path)
    features = {field.name for view in made.views for field in view.features}
    assert {f"hist_{c.name}" for c in spec.context} | {c.name for c in spec.static} <= features
    assert (made.user_static is not None) == bool(spec.static)
    assert [p.name for p in made.ad_decision.feature_view_projections] == [view.name for view in made.views]
    assert made.ad_decision.name == "ad_decision_v1"
