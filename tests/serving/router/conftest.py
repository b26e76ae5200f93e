from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.serving.router_fixtures import SPEC, running


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Posts bodies to one router, which must still decide afterwards."""
    runner = asyncio.Runner()
    context = running(tmp_path_factory.mktemp("router"))
    harness = runner.run(context.__aenter__())
    yield lambda path, body, **options: runner.run(harness.post(path, body, **options))
    (answer,) = runner.run(harness.predict())
    assert answer["expose"] and len(harness.records()) == 1
    runner.run(context.__aexit__(None, None, None))
    runner.close()


@pytest.fixture(scope="module")
def feast_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pandas as pd

    from features.offline.store import create, materialize

    folder = tmp_path_factory.mktemp("feast")
    row = {"user_id": "u1", "campaign_id": "c", "cost": 0.03, "conversion": 0, "revenue": 0.0, "propensity": 0.5}
    row |= {"device": "tv", "slot": "top", "age": "30-39"}
    start = pd.Timestamp("2026-01-01", tz="UTC")
    rows = [
        {**row, "timestamp": start + pd.Timedelta(hours=i), "channel": channel, "click": i % 2, "hour": float(i)}
        for i, channel in enumerate(("search", "video"))
    ]
    pd.DataFrame(rows)[list(SPEC.log_columns)].to_parquet(folder / "log.parquet")
    create(folder / "features", SPEC, folder / "log.parquet")
    materialize(folder / "features", SPEC)
    return folder / "features"
