import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from pydantic import TypeAdapter, ValidationError

from mtorl.log.records import VERSION, DecisionRecord, OutcomeRecord, ShadowRecord, WindowRecord
from serving.decision_log import Spool
from tests.redis_server import redis_cluster, redis_server
from tests.serving.handler_fixtures import save_artifact
from tests.serving.ledgers import KINDS, Place


def _wait_for(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


@pytest.fixture
def wait_for() -> Callable[..., bool]:
    """Waits until a condition is true. Returns False if it is not true in time."""
    return _wait_for


@pytest.fixture
def remains(tmp_path: Path) -> Callable[[], list[str]]:
    """Lists the processes with the test's folder in command line or environment, after at most 30 seconds of grace."""

    def living() -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                command = process.cmdline()
                if str(tmp_path) in "\n".join([*command, *process.environ().values()]):
                    found.append(" ".join(command))
            except psutil.Error:
                continue
        return found

    def after_a_moment() -> list[str]:
        _wait_for(lambda: not living(), 30.0)
        return living()

    return after_a_moment


_RECORDS = {
    "decision": TypeAdapter(DecisionRecord),
    "outcome": TypeAdapter(OutcomeRecord),
    "shadow": TypeAdapter(ShadowRecord),
    "window": TypeAdapter(WindowRecord),
}


@pytest.fixture(autouse=True)
def records_are_valid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checks each logged record against the schema, if its schema_version is the current one."""
    enqueue, faults = Spool._enqueue, []

    def checked(spool: Spool, entry: Any) -> Any:
        for record in map(orjson.loads, entry.lines):
            if record.get("schema_version") == VERSION:
                try:
                    _RECORDS[entry.kind].validate_python(record, strict=True)
                except ValidationError as error:
                    faults.append(error)
        return enqueue(spool, entry)

    monkeypatch.setattr(Spool, "_enqueue", checked)
    yield
    assert not faults, faults[0]


@pytest.fixture(scope="session")
def lasting_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a Redis that keeps its data. Each ledger in it has a different name."""
    with redis_server(tmp_path_factory.mktemp("redis"), appendonly="yes", appendfsync="no") as port:
        yield port


@pytest.fixture(scope="session")
def lasting_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of one of the three nodes of a Redis Cluster."""
    with redis_cluster(tmp_path_factory.mktemp("cluster"), appendonly="yes", appendfsync="no") as ports:
        yield ports[0]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, lasting_redis: int) -> Place:
    """The place of a new ledger, of each kind in turn."""
    return Place(request.param, tmp_path, lasting_redis)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real artifact, which no test may change."""
    return save_artifact(tmp_path_factory.mktemp("artifact") / "challenger")
