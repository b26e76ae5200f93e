from __future__ import annotations

import copy

import pytest
import yaml

from features.ingest.adapters import adapter_of
from mtorl.log.dataset import BASE_COLUMNS, Column, DatasetSpec, RewardSpec, SpecError, built_in


def simulator() -> dict:
    return copy.deepcopy(DatasetSpec.load("simulator").to_dict())


def view(**field) -> dict:
    return {"view": "x", "fields": [{"name": "a", "kind": "numeric", **field}]}


def test_built_in_descriptions_load_and_survive_a_round_trip(tmp_path):
    assert (
        " ".join(built_in())
        == "criteo-attribution criteo-sequence kuairand kuairand-sequence simulator simulator-aggregates"
    )
    for name in built_in():
        spec = DatasetSpec.load(name)
        assert spec.name == name
        assert DatasetSpec.from_dict(spec.to_dict()) == spec
        spec.save(tmp_path / "dataset.yaml")
        assert DatasetSpec.load(tmp_path / "dataset.yaml") == spec
        assert adapter_of(spec).required(spec)


def test_only_what_the_simulator_made_is_simulated():
    assert {name for name in built_in() if DatasetSpec.load(name).simulated} == {"simulator", "simulator-aggregates"}


def test_columns_start_with_the_canonical_ones_then_context_then_static():
    spec = DatasetSpec.load("simulator")
    assert spec.log_columns == (*BASE_COLUMNS, "hour", "device", "placement", "age_group", "tenure_days", "region")


def test_no_outcome_and_no_copy_of_the_channel_is_context_in_the_criteo_sample():
    spec = DatasetSpec.load("criteo-sequence")
    names = {c.name for c in (*spec.context, *spec.static)}
    assert not names & {"cat6", "cat8", "attribution", "click_nb", "cpo", "conversion", "click", "cost"}
    assert spec.static == () and spec.segment is None


def test_an_unknown_name_lists_the_built_in_ones():
    with pytest.raises(SpecError, match=r"no data set named 'criteo'; built in: criteo-attribution, criteo-seq"):
        DatasetSpec.load("criteo")


@pytest.mark.parametrize("content", [b"channels: [", b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=r"mine\.yaml: cannot read the data set description"):
        DatasetSpec.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ["search", "search"]}, r"channels: need at least two different names"),
        ({"channels": ["search"]}, r"channels: need at least two"),
        ({"channels": ["search", "*"]}, r"channels\[1\]: '\*' is not a usable name"),
        ({"channels": [True, False]}, r"channels\[0\]: expected text, got True \(in YAML"),
        ({"channels": "search"}, r"channels: expected a list, got 'search'"),
        (
            {"context": [{"name": "hour", "kind": "number"}]},
            r"context\[0\]\.kind: 'number' is not one of numeric, cat",
        ),
        ({"context": [{"name": "hour"}]}, r"context\[0\]: missing field 'kind'"),
        (
            {"context": [{"name": "hour", "kind": "numeric", "units": "h"}]},
            r"context\[0\]: unknown field 'units'; known",
        ),
        ({"context": [{"name": "click", "kind": "numeric"}]}, r"column 'click': .* neither a column of the log"),
        (
            {"context": [{"name": "region", "kind": "categorical"}]},
            r"context, static, outcomes: column 'region' is declared twice",
        ),
        ({"context": [{"name": "x", "kind": "categorical", "missing": "zero"}]}, r"column 'x', missing: 'zero' is for"),
        (
            {"outcomes": [{"name": "hour", "kind": "numeric"}]},
            r"outcomes: column 'hour' is declared twice",
        ),
        ({"max_touchpoints": 0}, r"max_touchpoints: expected a whole number of at least 1, got 0"),
        ({"journey_gap_days": 0}, r"journey_gap_days: expected a number above 0, got 0"),
        ({"segment": "tenure_days"}, r"segment: 'tenure_days' is not a categorical static column"),
        ({"reward": {"gain": "cost"}}, r"reward.gain: 'cost' is not one of click, conversion, revenue"),
        ({"reward": {"gain": "click", "cost_weight": -1}}, r"reward.cost_weight: expected a number of at least 0"),
        ({"propensity": "guess"}, r"propensity: 'guess' is not one of logged, channel-frequency, markov"),
        ({"window": 0}, r"window: expected a whole number of at least 1, got 0"),
        ({"outcome_labels": {"view": "a view"}}, r"outcome_labels: 'view' is not one of click"),
        ({"immediate": ["click", "view"]}, r"immediate: 'view' is not one of click, conversion, revenue, cost$"),
        ({"reward": {"gain": {}}}, r"reward.gain: expected the name of an outcome, or weights by name .*, got \{\}"),
        ({"reward": {"gain": {"click": 0}}}, r"reward.gain: the weight of 'click' is a finite number above 0, got 0"),
        ({"reward": {"gain": {"click": True}}}, r"reward.gain: the weight of 'click' is a finite number above 0"),
        ({"reward": {"gain": {"click": 1, "profit": 1}}}, r"reward.gain: 'profit' is not one of click, conversion, r"),
        (
            {"reward": {"gain": "n"}, "outcomes": [{"name": "n", "kind": "numeric", "missing": "unknown"}]},
            r"reward.gain: 'n' must have a value for every row; write missing: zero, or error",
        ),
        (
            {"immediate": ["n"], "outcomes": [{"name": "n", "kind": "categorical"}]},
            r"immediate: 'n' is not one of click, conversion, revenue, cost$",
        ),
        ({"outcomes": [{"name": "cancel", "kind": "numeric"}]}, r"outcomes: .* 'cancel' .* another name"),
        ({"immediate": ["cost", "cost"]}, r"immediate: an outcome is named twice"),
        ({"immediate": "cost"}, r"immediate: expected a list"),
        ({"timed": ["cost"]}, r"timed: 'cost' is not one of click, conversion, revenue$"),
        ({"timed": ["click"]}, r"timed: 'click' is immediate, too"),
        ({"timed": ["revenue", "revenue"]}, r"timed: an outcome is named twice"),
        (
            {"timed": ["revenue"], "context": [{"name": "revenue_time", "kind": "numeric"}]},
            r"timed: 'revenue_time' is a column of context",
        ),
        ({"colour": "red"}, r"unknown field 'colour'"),
        ({"features": [{"view": "x", "fields": []}]}, r"features\[0\]: view 'x', fields: name at least one"),
        ({"features": [view(missing="error")]}, r"features\[0\]\.fields\[0\]: field 'a', missing: a store may not"),
        ({"features": [view(kind="categorical", by_channel=True)]}, r"field 'a', by_channel: the list must be one of"),
        ({"features": [view(), view()]}, r"features: column 'a' is declared twice"),
        ({"features": [view(), view(name="b")]}, r"features: a view is named twice"),
        ({"features": [view(), {**view(name="b"), "view": "X"}]}, r"features: a view is named twice in \['x', 'X'\]"),
        (
            {"features": [{**view(), "ttl_hours": 1e-10}]},
            r"\.ttl_hours: expected a number of at least 0\.001, got 1e",
        ),
        ({"features": [{**view(), "ttl_hours": 1e308}]}, r"\.ttl_hours: expected a number of at most 100000, got 1e"),
        ({"features": [view(name="hour")]}, r"features: column 'hour' is declared twice"),
        ({"features": [{**view(), "source": "f.parquet"}]}, r"features\[0\]: view 'x': missing field 'key'"),
        ({"features": [{**view(), "key": "user_id"}]}, r"view 'x', key: is for a view with a source of its own"),
        ({"features": [{**view(), "source": "f", "key": "city"}]}, r"\.key: 'city' is not one of user_id, campaign_id"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, message):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**simulator(), **change}))
    with pytest.raises(SpecError, match=message) as caught:
        DatasetSpec.load(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_field_is_named():
    data = simulator()
    del data["propensity"]
    with pytest.raises(SpecError, match="missing field 'propensity'"):
        DatasetSpec.from_dict(data)
    with pytest.raises(SpecError, match="expected a mapping"):
        DatasetSpec.from_dict(["simulator"])


def test_an_unknown_adapter_lists_the_known_ones():
    spec = DatasetSpec.from_dict({**simulator(), "adapter": "excel"})
    with pytest.raises(SpecError, match="adapter: 'excel' is not one of touchpoints, simulator, criteo-"):
        adapter_of(spec)


def test_defaults_need_not_be_written_down():
    assert Column(name="hour", kind="numeric").missing == "error"
    data = simulator()
    for name in (
        "window",
        "min_touchpoints",
        "max_touchpoints",
        "journey_gap_days",
        "outcomes",
        "outcome_labels",
        "features",
    ):
        data.pop(name, None)
    spec = DatasetSpec.from_dict(data)
    assert (spec.window, spec.min_touchpoints, spec.max_touchpoints, spec.outcome_labels) == (20, 1, 10_000, {})
    assert (spec.journey_gap_days, spec.outcomes, spec.features) == (30.0, (), ())
    assert RewardSpec(gain="revenue").cost_weight == 0.0


def test_the_file_of_a_feature_view_lies_beside_the_description_wherever_that_is_copied(tmp_path):
    path = tmp_path / "mine.yaml"
    own = {**view(), "source": "mine.parquet", "key": "user_id"}
    path.write_text(yaml.safe_dump({**simulator(), "features": [own]}))
    spec = DatasetSpec.load(path)
    assert spec.features[0].source == str(tmp_path / "mine.parquet")
    (tmp_path / "copy").mkdir()
    spec.save(tmp_path / "copy" / "dataset.yaml")
    assert DatasetSpec.load(tmp_path / "copy" / "dataset.yaml") == spec


def test_a_changed_copy_is_validated_and_forgets_what_followed_from_the_old_fields():
    spec = DatasetSpec.load("simulator-aggregates")
    assert len(spec.feature_columns) == 2 * len(spec.channels) + 2
    assert spec.replace(features=()).feature_columns == ()
    with pytest.raises(ValueError, match="window"):
        spec.replace(window=0)
