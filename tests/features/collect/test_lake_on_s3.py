"""Test of a lake in a bucket of moto's S3 server."""

from datetime import datetime
from pathlib import Path

import pytest

from features.collect.compact import compact
from features.collect.training_log import learnable
from mtorl.log.lake import Lake, lake_database
from tests.features.collect.decision_logs import SPEC, write
from tests.features.collect.records import DECISIONS, OUTCOMES
from tests.features.collect.test_compact import LATER


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="ads")
    return f"s3://ads/lake?endpoint_override={endpoint.removeprefix('http://')}&scheme=http&region=us-east-1"


def test_a_bucket_is_a_lake_like_a_folder(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, folder = Lake.open(bucket), Lake.open(write(tmp_path, DECISIONS, OUTCOMES))
    assert not lake and lake.snapshot() == ""
    for file in (*folder.arrived("decision"), *folder.arrived("outcome")):
        lake.put(tmp_path / file.name, file.name)
        # A router repeats an upload if it got no answer.
        lake.put(tmp_path / file.name, file.name)
    (tmp_path / "rubbish").write_bytes(b"PAR1")
    rubbish = "arrived/outcomes/date=2026-01-01/hour=12/rubbish.parquet"
    lake.put(tmp_path / "rubbish", rubbish)
    before = lake.snapshot()
    done = compact(lake, LATER)
    assert (done.files, done.unreadable) == (3, [rubbish]) and not lake.arrived("decision")
    expected = learnable(tmp_path, SPEC)
    assert learnable(bucket, SPEC) == expected and expected.decisions == 5
    monkeypatch.setattr("features.collect.compact.KEPT_SECONDS", 0.0)
    assert compact(lake, LATER).files == 0 and not lake.superseded()
    after, digest = lake.snapshot().split()
    assert digest != before.split()[1]
    assert learnable(bucket, SPEC, datetime.fromisoformat(after)) == expected
    with lake_database(lake) as db:
        assert len(db.execute(f"FROM {lake.records(db, 'outcome')}").fetchall()) == 5
