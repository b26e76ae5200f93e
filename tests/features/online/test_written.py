"""Tests that a write of the online store is not recorded as complete if the store lost its data meanwhile."""

from dataclasses import replace
from pathlib import Path

import pytest
import redis

from features.online.written import Repository, StoreEmptied, Written
from tests.features.online_stores import write_settings
from tests.redis_server import redis_server


def of(source: str) -> Written:
    return Written(source, "definitions", 1.0)


def test_an_emptied_or_unfinished_store_does_not_count_as_written(tmp_path: Path) -> None:
    with redis_server(tmp_path) as port:
        write_settings(tmp_path, "redis", port)
        repository, client = Repository(tmp_path), redis.Redis(port=port)
        with pytest.raises(StoreEmptied), repository.writing(of("old")):
            client.flushall()
            client.set("the rest", "of the features")
        assert repository.written() is None
        with repository.writing(of("old")):
            pass
        before = repository.written()
        assert before is not None and before.source == "old"
        with pytest.raises(KeyboardInterrupt), repository.writing(of("new"), before):
            raise KeyboardInterrupt
        assert repository.written() == replace(before, source=""), "the next run continues from this record"
        with repository.writing(of("new")), repository.writing(of("newer")):  # two concurrent runs
            pass
        assert set(client.keys()) == {b"the rest", b"mtorl:written:mtorl"}


def test_a_store_that_keeps_no_record_can_be_written(tmp_path: Path) -> None:
    write_settings(tmp_path, "sqlite")
    with Repository(tmp_path).writing(of("log")):
        pass
    assert Repository(tmp_path).written() is None
