"""Tests of features that a team computes itself and provides as a file."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.engine import open_engine
from features.feature_repo.sources import CAMPAIGN_STATS, USER_CHANNEL, build_sources
from features.feature_repo.views import build
from features.messages import VIEW_LACKS, VIEW_TYPE
from features.sequences.builder import clean_touchpoints
from mtorl.log.dataset import DatasetSpec, SpecError
from mtorl.window.window import HISTORY
from tests.messages import raises

START = pd.Timestamp("2024-05-01 06:00", tz="UTC")


def described(toy, source: Path, *fields: dict[str, Any], **view: Any) -> DatasetSpec:
    """Describe the toy data set with an additional feature view that reads a file."""
    chosen = {"view": "weather", "source": str(source), "key": "campaign_id", "timestamp": "at", **view}
    return toy.spec.replace(features=[{**chosen, "fields": list(fields)}])


def copied(toy, rows: pd.DataFrame, folder: Path, *fields: dict[str, Any], **view: Any) -> pd.DataFrame:
    rows.to_parquet(folder / "own.parquet", index=False)
    spec = described(toy, folder / "own.parquet", *fields, **view)
    with open_engine("duckdb") as engine:
        log = engine.read(toy.write(toy.log(), folder / "log.parquet"))
        build_sources(engine, clean_touchpoints(log, spec), spec, folder / "data")
    return pd.read_parquet(folder / "data" / "weather.parquet")


@pytest.mark.parametrize("unit", ["ns", "us"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", None])
def test_times_of_any_kind_become_utc_and_keys_text(toy, tmp_path, unit, zone):
    at = pd.Series([START, START + timedelta(hours=1), START])
    # A time without a zone is read as UTC.
    own = at.dt.tz_convert(zone) if zone else at.dt.tz_localize(None)
    rows = pd.DataFrame({"campaign_id": [7, 7, None], "at": own.dt.as_unit(unit), "degrees": [1, 2, 3]})
    rows["campaign_id"] = rows["campaign_id"].astype("Int64")
    copy = copied(toy, rows, tmp_path, {"name": "degrees", "kind": "numeric"})
    assert copy["campaign_id"].tolist() == ["7", "7"], "a row without a key is dropped"
    assert copy["timestamp"].tolist() == copy["created_timestamp"].tolist() == at[:2].tolist()
    assert copy["degrees"].dtype == np.float64


def test_a_row_is_known_once_written_and_valid(toy, tmp_path):
    hour = timedelta(hours=1)
    rows = pd.DataFrame({"campaign_id": ["a", "b", "c"], "at": START, "degrees": 0.0})
    rows["written"] = [START + hour, START - hour, pd.NaT]
    copy = copied(toy, rows, tmp_path, {"name": "degrees", "kind": "numeric"}, created_timestamp="written")
    assert copy["created_timestamp"].tolist() == [START + hour, START, START]


def test_infinity_is_a_missing_value(toy, tmp_path):
    channels = len(toy.spec.channels)
    rows = pd.DataFrame({"campaign_id": ["a", "b", "c"], "at": START, "degrees": [np.inf, -np.inf, 1.0]})
    rows["by_hour"] = [[np.inf, *[1.0] * (channels - 1)], [None, *[-np.inf] * (channels - 1)], [2.0] * channels]
    numbers = {"name": "by_hour", "kind": "numeric", "by_channel": True}
    copy = copied(toy, rows, tmp_path, {"name": "degrees", "kind": "numeric"}, numbers).sort_values("campaign_id")
    assert copy["degrees"].isna().tolist() == [True, True, False]
    missing = [np.isnan(values).sum() for values in copy["by_hour"]]
    assert missing == [1, channels, 0]


@pytest.mark.parametrize(
    ("field", "words", "values"),
    [
        ({"name": "rain", "kind": "numeric"}, VIEW_LACKS, {"columns": ["rain"]}),
        ({"name": "sky", "kind": "numeric"}, VIEW_TYPE, {"column": "sky", "wanted": "numbers"}),
        ({"name": "degrees", "kind": "numeric", "by_channel": True}, VIEW_TYPE, {"wanted": "lists of numbers"}),
    ],
)
def test_an_invalid_file_is_named(toy, tmp_path, field, words, values):
    rows = pd.DataFrame({"campaign_id": ["a"], "at": [START], "sky": ["clear"], "degrees": [1.0]})
    with raises(SpecError, words, view="weather", **values):
        copied(toy, rows, tmp_path, field)
    with raises(SpecError, VIEW_TYPE, column="sky", wanted="times"):
        copied(toy, rows, tmp_path, {"name": "degrees", "kind": "numeric"}, timestamp="sky")


def test_a_view_has_the_lifetime_of_its_description(toy, tmp_path):
    field = {"name": "degrees", "kind": "numeric", "missing": "zero"}
    view = build(described(toy, tmp_path, field, ttl_hours=1.5), tmp_path).views[-1]
    assert (view.name, view.entities, view.ttl) == ("weather", ["campaign"], timedelta(hours=1.5))
    assert {field.name: field.tags for field in view.features} == {"degrees": {"default": "0.0"}}
    assert build(described(toy, tmp_path, field), tmp_path).views[-1].ttl == timedelta(0)


@pytest.mark.parametrize(
    "feature",
    [
        {"view": "weather"},
        {"view": CAMPAIGN_STATS},
        *({"view": view, "source": "x", "key": "user_id"} for view in (HISTORY, "Campaign_Stats")),
        {"view": CAMPAIGN_STATS, "fields": [{"name": "campaign_cost", "kind": "categorical"}]},
        {"view": USER_CHANNEL, "fields": [{"name": "uc_clicks", "kind": "numeric"}]},
        {"view": "mine", "source": "x", "key": "user_id", "fields": [{"name": "uc_clicks", "kind": "numeric"}]},
    ],
    ids=str,
)
def test_a_view_or_field_that_does_not_exist_is_refused(toy, tmp_path, feature):
    chosen = {"fields": [{"name": "degrees", "kind": "numeric"}], **feature}
    with pytest.raises(SpecError):
        build(toy.spec.replace(features=[chosen]), tmp_path)
