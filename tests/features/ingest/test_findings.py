"""Faults of whole columns: every row is good, and no policy can learn from the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.ingest.ingest import ingest_log, validate_log
from mtorl.log.touchpoints import LogError
from tests.features.shop_log import SPEC, rows


def test_a_log_in_which_nothing_costs_anything_is_refused_by_the_columns_name(tmp_path: Path) -> None:
    rows().assign(cost="0").rename(columns={"cost": "net price"}).to_csv(tmp_path / "log.csv", index=False)
    spec = SPEC.replace(columns={"cost": {"column": "net price"}})
    with pytest.raises(LogError, match=r"column 'net price': every exposure costs 0.*columns: \{cost: \{value: 1\}\}"):
        validate_log(tmp_path / "log.csv", spec)
    with pytest.raises(LogError, match="column 'net price'"):
        ingest_log(tmp_path / "log.csv", spec, tmp_path / "log.parquet", tmp_path / "faulty.csv")
    assert not (tmp_path / "log.parquet").exists()
