"""Point-in-time retrieval of the training features: our ASOF store for all views, Feast's own DuckDB store for one.

Every touchpoint of a log is an entity row, in the order in which the window store has them (by user and time). Ours
puts its answer into an Arrow table or, a piece at a time, into a Parquet file; both are measured. Feast's store joins
by inequality, so its time grows with touchpoints times snapshots of a user: it gets one view (the histories), and a
limit of time and memory at which it is stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .child import brief, clock, run
from .log import DATASET, generate
from .plan import Plan


def prepare(log: str, root: str) -> dict[str, Any]:
    """Create the feature repository of a log."""
    import features.feature_repo.views  # noqa: F401 - Feast's own start is not part of the figure
    from features.offline.store import create
    from mtorl.log.dataset import DatasetSpec

    with clock() as figures:
        create(root, DatasetSpec.load(DATASET), log)
    return dict(figures)


def retrieve(log: str, root: str, output: str, stock: bool = False) -> dict[str, Any]:
    """`get_historical_features` for every touchpoint, to an Arrow table ("arrow") or a file ("parquet")."""
    import duckdb
    import pyarrow.parquet as pq
    import yaml
    from feast import FeatureStore

    from features.feature_repo.names import AD_DECISION, HISTORY

    settings = Path(root) / "feature_store.yaml"
    if stock:
        changed = {**yaml.safe_load(settings.read_text()), "offline_store": {"type": "duckdb"}}
        settings.write_text(yaml.safe_dump(changed))
    store = FeatureStore(repo_path=root)
    if stock:
        view = store.get_feature_view(HISTORY)
        features: Any = [f"{view.name}:{field.name}" for field in view.features]
        # Its join takes the touchpoint itself for the past: ask for the moment before.
        columns = "user_id, timestamp - INTERVAL 1 MICROSECOND AS event_timestamp"
    else:
        features = store.get_feature_service(AD_DECISION)
        columns = "user_id, campaign_id, timestamp AS event_timestamp, epoch_us(timestamp)::DOUBLE AS request_timestamp"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        entities = connection.sql(f"SELECT {columns} FROM '{log}' ORDER BY user_id, timestamp").df()
    with clock() as figures:
        job: Any = store.get_historical_features(
            entity_df=entities, features=features, filter_by_created_timestamp=True
        )
        if output == "arrow":
            rows = job.to_arrow().num_rows
        else:
            job.to_parquet(Path(root) / "answer.parquet")
            rows = pq.read_metadata(Path(root) / "answer.parquet").num_rows
    return {**figures, "rows": rows}


def measure(plan: Plan, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """All views with ours; one view with Feast's store at each of its sizes."""
    figures: dict[str, Any] = {"asof": {}, "stock": []}
    for rows in sorted({plan.entity_rows, *plan.stock_rows}):
        log, root = folder / "log.parquet", folder / "repository"
        figures["log"] = run(generate, rows=rows, path=log)
        prepared = run(prepare, log=log, root=root)
        say(f"{rows:,} rows: repository: {brief(prepared)}")
        if "error" in prepared:
            figures["prepare"] = prepared
            break
        if rows == plan.entity_rows:
            figures["prepare"] = prepared
            for output in plan.outputs:
                figures["asof"][output] = run(retrieve, log=log, root=root, output=output)
                say(f"{rows:,} rows: all views, ours, to {output}: {brief(figures['asof'][output])}")
        if rows in plan.stock_rows:
            limit_s, limit_mib = plan.stock_limit_s, plan.stock_limit_mib
            stock = run(retrieve, log=log, root=root, output="arrow", stock=True, limit_s=limit_s, limit_mib=limit_mib)
            figures["stock"].append({"rows": rows, **stock})
            say(f"{rows:,} rows: one view, Feast's own store: {brief(figures['stock'][-1])}")
        shutil.rmtree(root, ignore_errors=True)
        log.unlink()
    return figures
