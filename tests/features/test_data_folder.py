from __future__ import annotations

import numpy as np

from features.data_folder import build
from features.engine import open_engine
from features.ingest.log_folder import RawLog
from mtorl.window.table import WindowTable


def test_windows_have_the_features_that_the_data_set_description_chooses(tmp_path):
    with open_engine() as engine:
        manifest = build(engine, RawLog("", "simulator-aggregates", "fail", 40), tmp_path / "data")
    table = WindowTable.load(tmp_path / "data" / "windows")
    chosen = [column.name for column in table.spec.feature_columns]
    assert chosen and set(chosen) <= set(manifest.columns)
    features = table.windows("train").features
    assert list(features) == chosen
    assert np.nanmax(features["uc_clicks_search"]) > 0
