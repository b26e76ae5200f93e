import json
import re

import pytest
from feast import FeatureStore

from features.feature_repo.views import build
from features.offline import store
from mtorl.log.dataset import DatasetSpec, built_in
from mtorl.window.window import HISTORY, PACKED, STATIC, history_types
from tests.features.feature_run import FeatureRun

FOLDER = store.CONFIG.parent


@pytest.fixture(scope="module")
def opened(toy, tmp_path_factory) -> FeatureStore:
    run = FeatureRun(toy, tmp_path_factory.mktemp("opened"), toy.log(seed=6), toy.spec).create()
    return FeatureStore(repo_path=str(run.root))


def test_every_stored_field_declares_its_default(toy, opened):
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


# ---- the README of this folder


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
