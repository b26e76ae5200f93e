import pandas as pd
import pytest

from features.ingest.ingest import ingest_log
from mtorl.log.dataset import DatasetSpec
from tests.features.shop_log import SPEC


@pytest.fixture
def ingest(tmp_path):
    def run(frame: pd.DataFrame | None, bad_rows: str = "fail", spec: DatasetSpec = SPEC, name: str = "log.csv"):
        path = tmp_path / name
        if frame is not None:
            frame.to_csv(path, index=False)
        return ingest_log(path, spec, tmp_path / "out" / "log.parquet", tmp_path / "out" / "quarantine.csv", bad_rows)

    run.out = tmp_path / "out" / "log.parquet"
    run.quarantine = tmp_path / "out" / "quarantine.csv"
    run.path = tmp_path / "log.csv"
    return run
