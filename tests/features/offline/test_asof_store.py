"""Tests that this project's point-in-time join returns the same values as Feast's."""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.errors import FeastEntityDFMissingColumnsError
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float64, Int64, String
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.properties import examples

START = pd.Timestamp("2024-05-01", tz="UTC")
TTL = timedelta(seconds=5)
PROPERTY = settings(max_examples=examples(10, 30), suppress_health_check=[HealthCheck.function_scoped_fixture])
REFS = ["user_past:order", "user_past:items", "user_past:count", "pair_past:score", "place_past:name"]
ON_DEMAND = ["python_sum:both", "pandas_twice:twice"]


def sources(rng: np.random.Generator, rows: int) -> dict[str, pd.DataFrame]:
    """Return random tables with few keys and times, so that ties and ages of exactly the TTL are frequent."""

    def times(size: int) -> pd.DataFrame:
        at = rng.integers(0, 12, size) * 1_000_000 + rng.integers(0, 2, size)
        late = np.where(rng.random(size) < 0.4, rng.integers(0, 9_000_000, size), 0)
        unknown = rng.random(size) < 0.1
        created = START + pd.to_timedelta(at + late - 500_000 * (rng.random(size) < 0.1), "us")
        return pd.DataFrame({"at": START + pd.to_timedelta(at, "us"), "made": created.where(~unknown, pd.NaT)}).astype(
            "datetime64[us, UTC]"
        )

    def keys(name: str, size: int) -> list[str]:
        return [f"{name}{i}" for i in rng.integers(0, 4, size)]

    def text() -> str | None:
        return None if rng.random() < 0.2 else str(rng.choice(["x", "y", ""]))

    user = times(rows).assign(
        user_id=keys("u", rows),
        order=[text() for _ in range(rows)],
        items=[None if rng.random() < 0.2 else rng.random(int(rng.integers(0, 3))).tolist() for _ in range(rows)],
        n=pd.array([None if rng.random() < 0.2 else int(i) for i in range(rows)], "Int64"),
    )
    pair = times(rows).assign(user_id=keys("u", rows), place=keys("p", rows), score=rng.random(rows))
    place = times(rows).assign(place=keys("p", rows), name=[text() for _ in range(rows)])
    # Feast would choose a random row among those with equal keys and times.
    return {
        "user_past": user.drop_duplicates(["user_id", "at", "made"]),
        "pair_past": pair.drop_duplicates(["user_id", "place", "at", "made"]),
        "place_past": place.drop_duplicates(["place", "at"]),
    }


def entity_rows(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    at = rng.integers(0, 18, rows) * 1_000_000 + rng.integers(0, 4, rows)
    return pd.DataFrame(
        {
            "event_timestamp": (START + pd.to_timedelta(at, "us")).astype("datetime64[us, UTC]"),
            "user_id": [f"u{i}" for i in rng.integers(0, 6, rows)],
            "place": [f"p{i}" for i in rng.integers(0, 6, rows)],
            "shop": [f"p{i}" for i in rng.integers(0, 6, rows)],
            "mine": np.arange(rows),
        }
    )


def write(data: dict[str, pd.DataFrame], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, frame in data.items():
        path = folder / f"{name}.parquet"
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        for column, kind in (("items", pa.list_(pa.float64())), ("n", pa.int64())):
            if column in table.column_names:
                at = table.column_names.index(column)
                table = table.set_column(at, column, table[column].cast(kind))
        pq.write_table(table, path, row_group_size=7)


class Stores:
    """This project's offline store, and a second store with Feast's own join, for comparison.

    Feast's join also returns rows at exactly the request time. Therefore requests to the second store are 1 us earlier,
    and its TTL is 1 us shorter.
    """

    def __init__(self, root: Path) -> None:
        self.data = root / "data"
        user, place = (
            Entity(name=name, join_keys=[key], value_type=ValueType.STRING)
            for name, key in (("user", "user_id"), ("place", "place"))
        )

        def view(name: str, entities: list[Entity], fields: dict, ttl: timedelta, created: str = "made") -> FeatureView:
            source = FileSource(
                name=name,
                path=str(self.data / f"{name}.parquet"),
                timestamp_field="at",
                created_timestamp_column=created,
                field_mapping={"n": "count"} if name == "user_past" else {},
            )
            schema = [Field(name=name, dtype=dtype) for name, dtype in fields.items()]
            return FeatureView(name=name, entities=entities, schema=schema, source=source, ttl=ttl)

        user_past = view("user_past", [user], {"order": String, "items": Array(Float64), "count": Int64}, timedelta(0))
        request = RequestSource(name="request", schema=[Field(name="mine", dtype=Float64)])

        @on_demand_feature_view(
            sources=[request, user_past[["items"]]], schema=[Field(name="both", dtype=Float64)], mode="python"
        )
        def python_sum(inputs):
            pairs = zip(inputs["mine"], inputs["items"], strict=True)
            return {"both": [float(mine + (0 if items is None else sum(items))) for mine, items in pairs]}

        @on_demand_feature_view(sources=[request], schema=[Field(name="twice", dtype=Float64)], mode="pandas")
        def pandas_twice(inputs):
            return pd.DataFrame({"twice": 2.0 * inputs["mine"]})

        def objects(ttl: timedelta) -> list:
            pair_past = view("pair_past", [user, place], {"score": Float64}, ttl)
            place_past = view("place_past", [place], {"name": String}, ttl, "")
            return [user, place, user_past, python_sum, pandas_twice, pair_past, place_past]

        kinds: dict[str, dict] = {
            "strict": {"type": "features.offline.asof_store.AsofDuckDBOfflineStore"},
            "earlier": {"type": "duckdb"},
        }
        self.stores = {}
        for name, kind in kinds.items():
            folder = root / name
            folder.mkdir()
            config = {
                "project": "test",
                "provider": "local",
                "registry": str(root / f"{name}.db"),
                "offline_store": kind,
                "online_store": {"type": "sqlite", "path": str(root / "online.db")},
                "entity_key_serialization_version": 3,
            }
            (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
        write(sources(np.random.default_rng(0), 20), self.data)
        FeatureStore(repo_path=str(root / "strict")).apply(objects(TTL))
        FeatureStore(repo_path=str(root / "earlier")).apply(objects(TTL - timedelta(microseconds=1)))
        self.stores = {name: FeatureStore(repo_path=str(root / name)) for name in kinds}

    def job(self, name: str, entities, features=REFS, **kw):
        return self.stores[name].get_historical_features(entity_df=entities, features=features, **kw)

    def ask(self, entities: pd.DataFrame, features=REFS, **kw) -> pd.DataFrame:
        return self.job("strict", entities.copy(), features, **kw).to_df()

    def feast(self, entities: pd.DataFrame, features=REFS, **kw) -> pd.DataFrame:
        """Ask Feast's own store for times 1 us earlier; the answer has the original times."""
        earlier = entities.assign(event_timestamp=entities["event_timestamp"] - pd.Timedelta(1, "us"))
        answer = self.job("earlier", earlier, features, **kw).to_df()
        return answer.assign(event_timestamp=answer["event_timestamp"] + pd.Timedelta(1, "us"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Stores:
    return Stores(tmp_path_factory.mktemp("stores"))


def by_row(answer: pd.DataFrame) -> list[list[object]]:
    names = sorted(answer.columns)
    ordered = answer.sort_values("mine")[names]
    return [[plain(value) for value in row] for row in ordered.itertuples(index=False)]


def plain(value: object) -> object:
    if isinstance(value, list | np.ndarray):
        return [plain(item) for item in value]
    return None if pd.isna(value) else value


# ---- equal to Feast's own store


@PROPERTY
@given(seed=st.integers(0, 10_000), rows=st.sampled_from([0, 3, 40]), by_created=st.booleans(), full=st.booleans())
@example(seed=0, rows=40, by_created=True, full=False)
def test_answers_are_feasts_own(stores, seed, rows, by_created, full):
    rng = np.random.default_rng(seed)
    write(sources(rng, 40), stores.data)
    entities = entity_rows(rng, rows)
    options = {"filter_by_created_timestamp": by_created, "full_feature_names": full}
    if not rows:  # Feast's own store fails
        assert len(stores.ask(entities, **options)) == 0
        return
    found = stores.ask(entities, [*REFS, *ON_DEMAND], **options)
    assert found["mine"].tolist() == list(range(rows)), "rows are not in the order of the entity rows"
    assert by_row(found) == by_row(stores.feast(entities, [*REFS, *ON_DEMAND], **options))


def test_the_ttl_ends_after_its_last_microsecond(stores):
    at = START.astimezone("UTC")
    rows = pd.DataFrame({"at": [at], "made": [at], "place": ["p0"], "name": ["x"]})
    write({"place_past": rows.astype({"at": "datetime64[us, UTC]", "made": "datetime64[us, UTC]"})}, stores.data)
    ages = [0, 1, 5_000_000, 5_000_001, 5_000_002]  # us; the TTL is 5 s
    entities = pd.DataFrame({"event_timestamp": at + pd.to_timedelta(ages, "us"), "place": "p0", "mine": range(5)})
    found = stores.ask(entities, ["place_past:name"])["name"].notna().tolist()
    assert found == [False, True, True, False, False]


def test_join_keys_can_be_mapped(stores):
    from feast import FeatureService

    rng = np.random.default_rng(4)
    write(sources(rng, 40), stores.data)
    entities = entity_rows(rng, 30)
    answers = []
    for name, ask in (("strict", stores.ask), ("earlier", stores.feast)):
        views = [
            stores.stores[name].get_feature_view("place_past").with_name(alias).with_join_key_map({"place": key})
            for alias, key in (("here_past", "place"), ("shop_past", "shop"))
        ]
        service = FeatureService(name="mapped", features=views)
        stores.stores[name].apply([service])
        answers.append(ask(entities, service, full_feature_names=True))
    assert {"here_past__name", "shop_past__name"} <= set(answers[0])
    assert by_row(answers[0]) == by_row(answers[1])


# ---- beyond Feast's own store


def test_a_source_may_be_a_folder_of_parts(stores):
    rng = np.random.default_rng(7)
    data = sources(rng, 40)
    entities = entity_rows(rng, 30)
    write(data, stores.data)
    whole = by_row(stores.ask(entities, filter_by_created_timestamp=True))
    for name in data:
        path = stores.data / f"{name}.parquet"
        table = pq.read_table(path)
        path.unlink()
        (path / "_temporary").mkdir(parents=True)
        (path / "_temporary" / "part-9.parquet").write_bytes(b"half")
        for i in range(3):
            part = table.slice(i * 15, 15)
            if name == "pair_past" and i:  # DuckDB writes columns without nulls like this
                at = part.schema.get_field_index("score")
                part = part.cast(part.schema.set(at, part.schema.field(at).with_nullable(False)))
            pq.write_table(part, path / f"part-{i}.parquet", row_group_size=4)
    assert by_row(stores.ask(entities, filter_by_created_timestamp=True)) == whole


# ---- errors


def test_invalid_requests_and_missing_files_are_named(stores):
    entities = entity_rows(np.random.default_rng(0), 5)
    with pytest.raises(FeastEntityDFMissingColumnsError, match="'user_id'"):
        stores.job("strict", entities.drop(columns="user_id"))
    with pytest.raises(ValueError, match="not str"):
        stores.job("strict", "select 1")
    with pytest.raises(ValueError, match=r"'name'.*Rename it"):
        stores.job("strict", entities.assign(name="x"))
    shutil.rmtree(stores.data)
    with pytest.raises(FileNotFoundError, match="no Parquet file"):
        stores.job("strict", entities)
    write(sources(np.random.default_rng(0), 20), stores.data)
