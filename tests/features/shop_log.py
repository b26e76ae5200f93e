"""A small, valid log of a shop, and a description with columns of all kinds."""

from pathlib import Path

import pandas as pd
import yaml

from features.ingest.ingest import IngestReport, ingest_log
from mtorl.log.dataset import DatasetSpec

DESCRIPTION = """
{name: shop, channels: [search, social], propensity: channel-frequency, min_touchpoints: 2, segment: age,
context: [{name: hour, kind: numeric}, {name: device, kind: categorical, missing: unknown}],
static: [{name: age, kind: categorical}, {name: tenure, kind: numeric, missing: zero}],
outcomes: [{name: viewed, kind: numeric}]}
"""
SPEC = DatasetSpec.from_dict(yaml.safe_load(DESCRIPTION))


def rows() -> pd.DataFrame:
    """Return three touchpoints for each of two users, as text."""
    return pd.DataFrame(
        {
            "user_id": ["007", "007", "007", "b", "b", "b"],
            "timestamp": [f"2024-05-0{day}T10:00:00Z" for day in (3, 1, 2, 1, 2, 3)],
            "campaign_id": "spring",
            "channel": ["search", "social"] * 3,
            "cost": ["0.5"] * 6,
            "click": ["0", "1"] * 3,
            "conversion": ["0"] * 6,
            "revenue": ["0"] * 6,
            "hour": ["10"] * 6,
            "device": ["mobile", "", "NA", "mobile", "desktop", "mobile"],
            "age": ["18-24"] * 3 + ["65+"] * 3,
            "tenure": ["12", "12", "12", "", "", ""],
            "viewed": ["0.5"] * 6,
        }
    )


def canonical(path: Path, spec: DatasetSpec, bad_rows: str = "fail") -> tuple[pd.DataFrame, IngestReport]:
    out = path.with_name("out.parquet")
    report = ingest_log(path, spec, out, path.with_name("faulty.csv"), bad_rows)
    return pd.read_parquet(out), report
