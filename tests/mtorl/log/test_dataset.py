import copy

import pytest
import yaml

from features.ingest.ingest import ADAPTERS, adapter_of
from features.messages import UNKNOWN_ADAPTER
from mtorl.log.dataset import BASE_COLUMNS, DatasetSpec, SpecError, built_in
from mtorl.log.messages import UNKNOWN_DATASET
from mtorl.runtime.messages import UNREADABLE
from tests.messages import raises


def simulator() -> dict:
    return copy.deepcopy(DatasetSpec.load("simulator").to_dict())


def view(**field) -> dict:
    return {"view": "x", "fields": [{"name": "a", "kind": "numeric", **field}]}


def test_built_in_descriptions_load_and_survive_a_round_trip(tmp_path):
    for name in built_in():
        spec = DatasetSpec.load(name)
        assert spec.name == name
        assert DatasetSpec.from_dict(spec.to_dict()) == spec
        spec.save(tmp_path / "dataset.yaml")
        assert DatasetSpec.load(tmp_path / "dataset.yaml") == spec
        assert adapter_of(spec).required(spec)
        assert spec.log_columns[: len(BASE_COLUMNS)] == BASE_COLUMNS and spec.simulated == name.startswith("simulator")


def test_no_outcome_and_no_copy_of_the_channel_is_context_in_the_criteo_sample():
    spec = DatasetSpec.load("criteo-sequence")
    names = {c.name for c in (*spec.context, *spec.static)}
    assert not names & {"cat6", "cat8", "attribution", "click_nb", "cpo", "conversion", "click", "cost"}
    assert spec.static == () and spec.segment is None


def test_an_unknown_name_or_adapter_lists_the_known_ones():
    for name in ("criteo", "no-such-file.yaml"):
        with raises(SpecError, UNKNOWN_DATASET, name=name, known=built_in()):
            DatasetSpec.load(name)
    with raises(SpecError, UNKNOWN_ADAPTER, adapter="excel", known=list(ADAPTERS)):
        adapter_of(DatasetSpec.from_dict({**simulator(), "adapter": "excel"}))


@pytest.mark.parametrize("content", [b"channels: [", b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with raises(SpecError, UNREADABLE, file=path):
        DatasetSpec.load(path)


N = {"name": "n", "kind": "numeric"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ["search", "search"]}, r"channels: need at least two different names"),
        ({"channels": ["search", "*"]}, r"channels\[1\]: '\*' is not a usable name"),
        ({"context": [{"name": "click", "kind": "numeric"}]}, r"column 'click': .* no standard column of the log"),
        ({"context": [{"name": "region", "kind": "categorical"}]}, r"outcomes: column 'region' is declared twice"),
        ({"context": [{"name": "x", "kind": "categorical", "missing": "zero"}]}, r"column 'x', missing: 'zero' is for"),
        ({"outcomes": [{"name": "hour", "kind": "numeric"}]}, r"outcomes: column 'hour' is declared twice"),
        ({"segment": "tenure_days"}, r"segment: 'tenure_days' is not a categorical static column"),
        ({"reward": {"gain": {"click": 1, "profit": 1}}}, r"reward.gain: 'profit' is not one of click, conversion, r"),
        ({"reward": {"gain": "n"}, "outcomes": [{**N, "missing": "unknown"}]}, r"reward.gain: 'n' must have a value"),
        ({"immediate": ["n"], "outcomes": [{**N, "kind": "categorical"}]}, r"immediate: 'n' is not one of .*, cost$"),
        ({"outcomes": [{"name": "cancel", "kind": "numeric"}]}, r"outcomes: 'cancel' .* another name"),
        ({"immediate": ["cost", "cost"]}, r"immediate: an outcome is named twice"),
        ({"timed": ["cost"]}, r"timed: 'cost' is not one of click, conversion, revenue$"),
        ({"timed": ["click"]}, r"timed: 'click' is in `immediate`, too"),
        ({"timed": ["revenue"], "context": [{**N, "name": "revenue_time"}]}, r"timed: 'revenue_time' is a column of"),
        ({"features": [{"view": "x", "fields": []}]}, r"features\[0\]: view 'x', fields: name at least one"),
        ({"features": [view(missing="error")]}, r"features\[0\]\.fields\[0\]: field 'a', missing: a feature store may"),
        ({"features": [view(kind="categorical", by_channel=True)]}, r"field 'a', by_channel: the list must contain"),
        ({"features": [view(), {**view(name="b"), "view": "X"}]}, r"features: a view is named twice in \['x', 'X'\]"),
        ({"features": [view(name="hour")]}, r"features: column 'hour' is declared twice"),
        ({"features": [{**view(), "source": "f.parquet"}]}, r"features\[0\]: view 'x': missing field 'key'"),
        ({"features": [{**view(), "key": "user_id"}]}, r"view 'x', key: is only for a view with a `source`"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, message):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**simulator(), **change}))
    with pytest.raises(SpecError, match=message) as caught:
        DatasetSpec.load(path)
    assert str(caught.value).startswith(str(path))


def test_a_copied_description_keeps_the_path_of_a_feature_views_file(tmp_path):
    path = tmp_path / "mine.yaml"
    own = {**view(), "source": "mine.parquet", "key": "user_id"}
    path.write_text(yaml.safe_dump({**simulator(), "features": [own]}))
    spec = DatasetSpec.load(path)
    assert spec.features[0].source == str(tmp_path / "mine.parquet")
    (tmp_path / "copy").mkdir()
    spec.save(tmp_path / "copy" / "dataset.yaml")
    assert DatasetSpec.load(tmp_path / "copy" / "dataset.yaml") == spec
