"""When a store counts as written: only if it still holds what the run began with."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from features.online.written import Repository, StoreEmptied
from tests.features.online_stores import write_settings
from tests.redis_server import redis_server


def test_a_store_that_was_emptied_or_not_finished_does_not_count_as_written(tmp_path: Path) -> None:
    with redis_server(tmp_path) as port:
        write_settings(tmp_path, "redis", port)
        repository, client = Repository(tmp_path), redis.Redis(port=port)
        with pytest.raises(StoreEmptied, match="was emptied while it was written"), repository.writing("old"):
            client.flushall()
            client.set("the rest", "of the features")
        assert repository.written() is None
        with repository.writing("old"):
            pass
        with pytest.raises(KeyboardInterrupt), repository.writing("new"):
            raise KeyboardInterrupt
        written = repository.written()
        assert written is not None and written.source == "old"
        with repository.writing("new"), repository.writing("newer"):  # two runs at once
            pass
        assert set(client.keys()) == {b"the rest", b"mtorl:written:mtorl"}


def test_a_store_without_such_a_key_is_written_all_the_same(tmp_path: Path) -> None:
    write_settings(tmp_path, "sqlite")
    with Repository(tmp_path).writing("log"):
        pass
    assert Repository(tmp_path).written() is None
