"""Tests that `mtorl data describe` computes the same figures as pandas."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features import messages
from features.describe import charts as describe_charts
from features.describe.figures import NO_CHANNEL, PROPENSITY_BINS, Description, describe
from features.describe.page import _notes, render
from features.engine import Engine, open_engine
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError
from tests.messages import raises

CHANNELS = ("search", "social", "video")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with open_engine("duckdb") as opened:
        yield opened


@pytest.fixture
def spec() -> DatasetSpec:
    return DatasetSpec.load("simulator").replace(channels=CHANNELS, journey_gap_days=2.0, max_touchpoints=25)


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    random = np.random.default_rng(5)
    lengths = [1, 1, 1, 30, *random.integers(2, 20, 60)]
    user = np.repeat([f"u{i:03}" for i in range(len(lengths))], lengths)
    rows = len(user)
    start = pd.Timestamp("2024-05-01T00:00:00Z")
    pause = np.exp(random.normal(9, 2, rows)).round(6)
    at = start + pd.to_timedelta(pd.Series(pause).groupby(user).cumsum(), unit="s")
    made = pd.DataFrame(
        {
            "user_id": user,
            "timestamp": at.astype("datetime64[us, UTC]"),
            "campaign_id": random.choice(["a", "b"], rows),
            "channel": random.choice(CHANNELS, rows, p=[0.6, 0.3, 0.1]),
            "cost": np.where(random.random(rows) < 0.2, 0.0, random.gamma(2, 0.1, rows)),
            "click": (random.random(rows) < 0.2).astype("int64"),
            "conversion": (random.random(rows) < 0.02).astype("int64"),
            "revenue": random.random(rows),
            "propensity": np.clip(random.beta(1, 3, rows), 0.001, 1.0),
            "hour": np.where(random.random(rows) < 0.1, np.nan, random.integers(0, 24, rows)),
            "device": np.where(random.random(rows) < 0.3, None, random.choice(["phone", "tv"], rows)),
            "placement": "feed",
            "age_group": "18-24",
            "tenure_days": 5.0,
            "region": "north",
        }
    )
    late = pd.to_timedelta(np.where(random.random(rows) < 0.1, 60.0, 0.0), unit="s")
    return made.assign(created_timestamp=(made["timestamp"] + late).astype("datetime64[us, UTC]"))


def described(engine: Engine, log: pd.DataFrame, spec: DatasetSpec, folder: Path) -> Description:
    path = folder / "touchpoints.parquet"
    log.to_parquet(path)
    return describe(engine, path, spec)


@pytest.fixture
def description(engine: Engine, log: pd.DataFrame, spec: DatasetSpec, tmp_path: Path) -> Description:
    return described(engine, log, spec, tmp_path)


def journeys_of(log: pd.DataFrame, days: float) -> pd.DataFrame:
    log = log.sort_values(["user_id", "timestamp"])
    pause = log.groupby("user_id")["timestamp"].diff()
    journey = (pause.isna() | (pause > pd.Timedelta(days=days))).cumsum()
    place = log.groupby(journey).cumcount() + 1
    return log.assign(journey=journey, place=place)


def test_users_and_columns(description: Description, log: pd.DataFrame) -> None:
    touchpoints = log.groupby("user_id").size()
    assert (description.rows, description.users) == (len(log), touchpoints.size)
    assert (description.one_touchpoint_users, description.capped_users, description.most_touchpoints) == (3, 1, 30)
    assert description.late_rows == (log["created_timestamp"] > log["timestamp"]).sum() > 0
    assert pd.Timestamp(description.first) == log["timestamp"].min()
    assert pd.Timestamp(description.last) == log["timestamp"].max()
    assert [column.name for column in description.columns] == list(log.columns[:-1])
    for column in description.columns:
        assert column.missing == log[column.name].isna().sum()
        if column.kind == "numeric":
            values = log[column.name]
            assert (column.low, column.high) == (values.min(), values.max())
            assert column.mean == pytest.approx(values.mean())
        elif column.kind != "time" and column.name != "user_id":
            assert column.different == log[column.name].nunique()
    assert description.column("hour").missing > 0 and description.column("device").missing > 0


def test_channels(description: Description, log: pd.DataFrame) -> None:
    assert [channel.channel for channel in description.channels] == list(CHANNELS)
    for channel in description.channels:
        rows = log[log["channel"] == channel.channel]
        assert channel.rows == len(rows)
        assert channel.share == pytest.approx(len(rows) / len(log))
        assert (channel.click.hits, channel.conversion.hits) == (rows["click"].sum(), rows["conversion"].sum())
        assert channel.revenue == pytest.approx(rows["revenue"].mean())
        assert channel.cost == pytest.approx(rows["cost"].mean())
        assert channel.free == pytest.approx((rows["cost"] == 0).mean())
    assert description.rate("click").hits == log["click"].sum()


def test_journeys_end_at_the_gap(description: Description, log: pd.DataFrame) -> None:
    expected = journeys_of(log, 2.0)
    lengths = expected.groupby("journey").size()
    assert description.journeys == len(lengths) > description.users
    assert dict(description.lengths) == lengths.value_counts().to_dict()
    for share in (0.5, 0.95, 1.0):
        assert description.length_quantile(share) == np.quantile(lengths, share, method="inverted_cdf")
    for place in description.places:
        rows = expected[expected["place"] == place.place]
        assert (place.click.rows, place.click.hits) == (len(rows), rows["click"].sum())
        assert place.conversion.hits == rows["conversion"].sum()


def test_periods_and_propensities(description: Description, log: pd.DataFrame) -> None:
    assert description.period == "day"
    days = log.groupby([log["timestamp"].dt.floor("D"), "channel"]).size()
    assert {(pd.Timestamp(start), name): rows for start, name, rows in description.periods} == days.to_dict()
    assert description.propensity_rows == len(log)
    assert description.propensity_low == log["propensity"].min()
    assert description.propensity_rare == (log["propensity"] < 0.02).sum() > 0
    bins = np.minimum((log["propensity"] * PROPENSITY_BINS).astype(int), PROPENSITY_BINS - 1)
    expected = log.groupby(["channel", bins.rename("bin")]).size().to_dict()
    assert {(name, bin): rows for name, bin, rows in description.propensities} == expected


def charts_of(description: Description, folder: Path) -> list[str]:
    text = render(description, folder / "pages" / "page.html").read_text(encoding="utf-8")
    words = re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", " ", text)
    assert not {"None", "nan", "NaN"} & set(words.split()) and "<b>channel" not in text
    json.dumps(dataclasses.asdict(description))
    return re.findall(r'role="img" aria-label="([^"]+)"', text)


def test_the_page_has_a_chart_for_each_figure(description: Description, tmp_path: Path) -> None:
    assert len(charts_of(dataclasses.replace(description, quarantined=4, faults=("a fault",)), tmp_path)) == 7
    assert len(list(_notes(description, {}))) == 5


def test_a_log_of_one_row_is_drawn(engine: Engine, log: pd.DataFrame, spec: DatasetSpec, tmp_path: Path) -> None:
    description = described(engine, log.head(1), spec, tmp_path)
    assert (description.journeys, description.lengths) == (1, [(1, 1)])
    assert charts_of(description, tmp_path)


@pytest.mark.parametrize("propensity", ["markov", "logged"])
def test_a_log_without_costs_outcomes_and_propensities_is_drawn(
    engine: Engine, log: pd.DataFrame, spec: DatasetSpec, tmp_path: Path, propensity: str
) -> None:
    bare = log.assign(cost=0.0, click=0, conversion=0, propensity=np.nan).drop(columns="created_timestamp")
    description = described(engine, bare, spec.replace(propensity=propensity), tmp_path)
    assert (description.propensity_rows, description.propensity_low, description.propensity_rare) == (0, None, 0)
    assert description.propensities == () and description.late_rows is None
    assert len(charts_of(description, tmp_path)) == 2


def test_many_channels_some_unused_with_odd_names_and_an_empty_month(
    engine: Engine, log: pd.DataFrame, spec: DatasetSpec, tmp_path: Path
) -> None:
    names = ["others", *(f"<b>channel & {i}</b>" for i in range(11)), "never"]
    odd = log.assign(channel=np.resize(names[:-1], len(log)))
    odd.loc[odd["user_id"] == odd["user_id"].iloc[0], "timestamp"] += pd.Timedelta(days=4000)
    description = described(engine, odd, spec.replace(channels=tuple(names)), tmp_path)
    assert description.channels[-1].rows == 0 and description.period == "month"
    assert charts_of(description, tmp_path)
    assert describe_charts.touchpoints(description).html.count('"name":"others"') == 2
    assert "from 0 to" in describe_charts.touchpoints(description).alt


def test_a_trusted_log_may_lack_channels_costs_and_outcomes(
    engine: Engine, log: pd.DataFrame, spec: DatasetSpec, tmp_path: Path
) -> None:
    organic = log["channel"] == CHANNELS[0]
    lacking = ("channel", "cost", "click", "conversion", "revenue")
    bare = log.assign(**{name: log[name].mask(organic, None) for name in lacking})
    description = described(engine, bare, spec, tmp_path)
    assert {channel.channel for channel in description.channels} == {*CHANNELS, NO_CHANNEL}
    none = next(channel for channel in description.channels if channel.channel == NO_CHANNEL)
    assert (none.rows, none.click.hits) == (organic.sum(), 0) and np.isnan(none.cost)
    assert charts_of(description, tmp_path)
    nothing = bare.assign(cost=np.nan, channel=None, click=pd.array([None] * len(bare), "Int64"))
    assert charts_of(described(engine, nothing, spec, tmp_path), tmp_path)


def test_no_rows_or_columns_is_refused(engine: Engine, log: pd.DataFrame, spec: DatasetSpec, tmp_path: Path) -> None:
    with raises(LogError, messages.NO_ROWS):
        described(engine, log.head(0), spec, tmp_path)
    with raises(LogError, messages.MISSING_COLUMNS, missing=["cost"]):
        described(engine, log.drop(columns="cost"), spec, tmp_path)


@pytest.mark.long
def test_spark_equals_duckdb(description: Description, log: pd.DataFrame, spec: DatasetSpec, tmp_path: Path) -> None:
    with open_engine("spark") as spark:
        assert spark.name == "spark"
        other = described(spark, log, spec, tmp_path)
    for field in dataclasses.fields(Description):
        if field.name not in ("channels", "columns"):  # they contain sums of floats, and sketches
            assert getattr(other, field.name) == getattr(description, field.name), field.name
    for one, two in zip(description.channels, other.channels, strict=True):
        assert (one.channel, one.rows, one.click, one.conversion) == (two.channel, two.rows, two.click, two.conversion)
        assert one.cost == pytest.approx(two.cost)
    for one, two in zip(description.columns, other.columns, strict=True):
        assert (one.name, one.missing, one.low, one.high) == (two.name, two.missing, two.low, two.high)
