"""Measures how long Feast takes to look up, for each touchpoint in a log, the features that were known at its time."""

from pathlib import Path
from typing import Any

from benchmarks._process import clock, run

from .log import DATASET, Plan, generate


def prepare(log: str, root: str) -> dict[str, Any]:
    import features.feature_repo.views  # noqa: F401 - so that importing Feast is not measured
    from features.offline.store import create
    from mtorl.log.dataset import DatasetSpec

    with clock() as figures:
        create(root, DatasetSpec.load(DATASET), log)
    return dict(figures)


def retrieve(log: str, root: str) -> dict[str, Any]:
    import duckdb
    from feast import FeatureStore

    from mtorl.window.window import HISTORY

    store = FeatureStore(repo_path=root)
    # The view HISTORY exists only in the online store.
    views = [view for view in store.list_feature_views() if view.name != HISTORY]
    features = [f"{view.name}:{field.name}" for view in views for field in view.features]
    columns = "user_id, campaign_id, timestamp AS event_timestamp"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        entities = connection.sql(f"SELECT {columns} FROM '{log}' ORDER BY user_id, timestamp").df()
    with clock() as figures:
        job: Any = store.get_historical_features(
            entity_df=entities, features=features, filter_by_created_timestamp=True
        )
        rows = job.to_arrow().num_rows
    return {**figures, "rows": rows}


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    log, root = folder / "log.parquet", folder / "repository"
    figures = {"log": run(generate, rows=plan.entity_rows, path=log), "prepare": run(prepare, log=log, root=root)}
    return figures | {"asof": run(retrieve, log=log, root=root)}
