from pathlib import Path

import pandas as pd
import pytest
from pyarrow.fs import S3FileSystem

from features import messages
from features.data_folder import canonical_log
from features.ingest.draft import draft_description
from features.ingest.ingest import ingest_log, validate_log
from features.ingest.log_folder import RawLog, check_unchanged, content_of
from mtorl.log.touchpoints import LogError
from tests.features.shop_log import SPEC, rows
from tests.messages import assert_says, raises

pytestmark = pytest.mark.integration


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3FileSystem:
    for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_ENDPOINT_URL", endpoint)):
        monkeypatch.setenv(name, value)
    store = S3FileSystem(region="us-east-1", endpoint_override=endpoint, allow_bucket_creation=True)
    store.create_dir("logs")
    store.delete_dir_contents("logs")
    return store


def put(store: S3FileSystem, path: str, text: str) -> None:
    with store.open_output_stream(path) as stream:
        stream.write(text.encode())


def test_a_file_and_a_folder_of_an_object_store_are_logs(store: S3FileSystem, tmp_path: Path) -> None:
    whole = rows()
    whole.to_csv(tmp_path / "log.csv", index=False)
    wanted = ingest_log(tmp_path / "log.csv", SPEC, tmp_path / "a.parquet", tmp_path / "faulty.csv")
    put(store, "logs/log.csv", whole.to_csv(index=False))
    for day, part in enumerate((whole[:4], whole[4:])):
        put(store, f"logs/by-day/date={day}/part.csv", part.to_csv(index=False))
    put(store, "logs/by-day/_temporary/half.csv", "user")
    for address in ("s3://logs/log.csv", "s3://logs/by-day", "s3://logs/by-day/"):
        found = ingest_log(address, SPEC, tmp_path / "b.parquet", tmp_path / "faulty.csv")
        assert found == wanted
    assert validate_log("s3://logs/log.csv", SPEC).rows == wanted.rows
    SPEC.save(tmp_path / "mine.yaml")
    raw = RawLog("s3://logs/log.csv", str(tmp_path / "mine.yaml"))
    (tmp_path / "data").mkdir()
    log = canonical_log(raw, tmp_path / "data", tmp_path / "faulty.csv")
    assert len(pd.read_parquet(log.path)) == wanted.rows
    with raises(LogError, messages.TRUSTED_ADDRESS):
        canonical_log(raw, tmp_path / "data", tmp_path / "faulty.csv", trusted=True)
    assert draft_description("s3://logs/log.csv", named={"channel": "channel"}).startswith("name: log\n")


def test_messages_name_the_address(store: S3FileSystem, tmp_path: Path) -> None:
    put(store, "logs/log.csv", rows().drop(columns="user_id").to_csv(index=False))
    with pytest.raises(LogError, match=r"^s3://logs/log\.csv:"):
        validate_log("s3://logs/log.csv", SPEC)
    for address in ("s3://logs/none.csv", "s3://nowhere/log.csv"):
        with pytest.raises(LogError, match=f"^{address}:"):
            validate_log(address, SPEC)
    with raises(LogError, messages.UNKNOWN_ADDRESS, address="ftp://x/y"):
        validate_log("ftp://x/y", SPEC)


def test_an_unreachable_store_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("ENDPOINT_URL", "http://127.0.0.1:1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with raises(LogError, messages.UNREADABLE_ADDRESS, address="s3://logs/log.csv"):
        validate_log("s3://logs/log.csv", SPEC)


def test_credentials_in_an_address_are_refused_and_not_shown() -> None:
    for address in ("s3://key:s3cret@logs/log.csv?region=us-east-1", "s3://key:s3/cret@logs/log.csv"):
        with pytest.raises(LogError, match=r"^s3://\.\.\.@logs/log\.csv") as refused:
            validate_log(address, SPEC)
        assert_says(refused.value, messages.UNREADABLE_ADDRESS)
        assert "cret" not in str(refused.value).replace("credentials", "")


def test_a_cache_sees_that_a_file_has_changed(store: S3FileSystem, tmp_path: Path) -> None:
    SPEC.save(tmp_path / "mine.yaml")
    raw = RawLog("s3://logs/log.csv", str(tmp_path / "mine.yaml"))
    put(store, "logs/log.csv", rows().to_csv(index=False))
    before = content_of(raw)
    assert content_of(raw) == before
    check_unchanged(raw, before)
    put(store, "logs/log.csv", rows()[:3].to_csv(index=False))
    with raises(LogError, messages.CHANGED, log="s3://logs/log.csv"):
        check_unchanged(raw, before)
