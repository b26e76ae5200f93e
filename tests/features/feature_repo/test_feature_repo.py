"""The folder that `feast apply` reads: from the command line it gives what `features.offline.store` gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore

from features.engine import open_engine
from features.feature_repo.sources import CAMPAIGN_STATS, USER_CHANNEL, build_sources
from features.feature_repo.views import build
from features.offline import store
from features.sequences.builder import clean_touchpoints
from mtorl.log.dataset import Column, DatasetSpec, SpecError, built_in
from mtorl.window.window import AD_DECISION, HISTORY, PACKED, STATIC, history_types
from tests.features.feature_run import US, FeatureRun

FOLDER = store.CONFIG.parent
# A value older than this says nothing of now; static columns never expire.


@pytest.fixture
def repository(tmp_path) -> Path:
    """The folder as it is in a fresh checkout."""
    ignore = shutil.ignore_patterns("data", "registry.db", "online.db*", "__pycache__")
    return Path(shutil.copytree(FOLDER, tmp_path / "feature_repo", ignore=ignore))


@pytest.fixture(scope="module")
def opened(toy, tmp_path_factory) -> FeatureStore:
    """What `features.offline.store` makes of the toy data set."""
    run = FeatureRun(toy, tmp_path_factory.mktemp("opened"), toy.log(seed=6), toy.spec).create()
    return FeatureStore(repo_path=str(run.root))


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


def described(root: Path) -> dict[str, Any]:
    """All that the registry says, but where the files lie."""
    opened = FeatureStore(repo_path=str(root))
    return {
        "entities": {e.name: (e.join_key, e.tags) for e in opened.list_entities()},
        "sources": {source.name for source in opened.list_data_sources()},
        "views": {
            view.name: (
                {field.name: (str(field.dtype), field.tags) for field in view.schema},
                view.join_keys,
                view.tags,
                view.ttl,
                Path(view.batch_source.path).name,
            )
            for view in opened.list_feature_views()
        },
        "services": {
            service.name: {p.name: sorted(f.name for f in p.features) for p in service.feature_view_projections}
            for service in opened.list_feature_services()
        },
    }


# ---- from the command line


@pytest.mark.long
def test_apply_and_materialize_from_the_command_line(toy, tmp_path, repository):
    run = FeatureRun(toy, tmp_path / "run", toy.log(seed=6, late=0.3), toy.spec).create()
    run.spec.save(tmp_path / "toy.yaml")
    with open_engine() as engine:
        build_sources(engine, clean_touchpoints(engine.read(run.path), run.spec), run.spec, repository / "data")
    environment = {"MTORL_DATASET": str(tmp_path / "toy.yaml")}
    applied = feast(repository, "apply", **environment).splitlines()
    assert {"Created entity user", f"Created feature service {AD_DECISION}"} <= set(applied)
    assert described(repository) == described(run.root)

    end = run.log["created_timestamp"].max()
    others = [word for view in (STATIC, USER_CHANNEL, CAMPAIGN_STATS) for word in ("--views", view)]
    feast(repository, "materialize", *others, "1970-01-01T00:00:00", end.tz_localize(None).isoformat(), **environment)
    store.materialize(run.root, run.spec, run.path, views=[STATIC, USER_CHANNEL, CAMPAIGN_STATS])
    by_command = FeatureRun(toy, tmp_path, run.log, toy.spec)
    (tmp_path / "features").symlink_to(repository)
    users = [*run.log["user_id"].unique(), "nobody"]
    assert repr(by_command.read(users, end + US)) == repr(run.read(users, end + US))  # text, for NaN is not NaN


@pytest.mark.long
def test_apply_needs_neither_data_nor_settings(repository):
    applied = feast(repository, "apply")
    assert "Created feature view user_history" in applied
    made = described(repository)
    assert set(made["entities"]) == {"user", "campaign"}
    assert "hist_hour" in made["views"][HISTORY][0][PACKED][1]["columns"]
    assert feast(repository, "feature-services", "list").count("ad_") == 1


# ---- what is defined


def test_every_stored_field_declares_what_a_reader_takes_where_nothing_is_known(toy, opened):
    defaults = {f.name: json.loads(f.tags["default"]) for view in opened.list_feature_views() for f in view.features}
    lists = {name: value for name, value in defaults.items() if isinstance(value, list)}
    assert defaults[PACKED] is None
    assert {name for name, value in lists.items() if value == [0.0] * 3} == {"uc_touchpoints", "uc_clicks"}
    assert {name for name, value in defaults.items() if value == 0.0} == {"campaign_touchpoints"}


@pytest.mark.parametrize("name", built_in())
def test_every_built_in_data_set_can_be_defined(name, tmp_path):
    spec = DatasetSpec.load(name)
    made = build(spec, tmp_path)
    features = {field.name for view in made.views for field in view.features}
    assert {PACKED, *(c.name for c in spec.static)} <= features
    columns = json.loads(made.views[0].features[0].tags["columns"])
    assert columns == history_types(spec) and {f"hist_{c.name}" for c in spec.context} <= set(columns)
    assert (STATIC in [view.name for view in made.views]) == bool(spec.static)
    known = [HISTORY, *([STATIC] if spec.static else []), *(chosen.view for chosen in spec.features)]
    assert [p.name for p in made.service.feature_view_projections] == known


def test_a_column_with_the_name_of_a_feature_is_refused(toy, tmp_path):
    spec = toy.spec.replace(context=(*toy.spec.context, Column(name="uc_clicks", kind="numeric")))
    with pytest.raises(SpecError, match="'uc_clicks': a feature of every data set has this name; rename the column"):
        build(spec, tmp_path)


# ---- the page about this room


def test_the_readme_names_every_file_and_tests_that_exist():
    room, tests = FOLDER.parent, FOLDER.parents[1] / "tests"
    page = (room / "README.md").read_text()
    parts = [path.relative_to(room) for kind in ("py", "lua", "j2", "yaml") for path in room.rglob(f"*.{kind}")]
    missing = [path.as_posix() for path in parts if f"`{path.as_posix()}`" not in page and f"`{path.name}`" not in page]
    assert missing == []
    named = set(re.findall(r"`(test_\w+)`", page))
    defined = set(re.findall(r"def (test_\w+)\(", "".join(path.read_text() for path in tests.rglob("test_*.py"))))
    assert len(named) > 8 and named <= defined
    files = re.findall(r"`((?:\w+/)?test_\w+\.py)`", page)
    assert len(files) > 8 and all((tests / "features" / path).exists() for path in files)
