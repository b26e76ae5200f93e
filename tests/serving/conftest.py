import os
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
from tests.waiting import eventually


@pytest.fixture
def all_gone(tmp_path: Path) -> Callable[[], object]:
    """Return a function that waits until no process refers to the test's folder."""

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

    return lambda: eventually(lambda: not living(), state=living)


_RECORDS = {
    "decision": TypeAdapter(DecisionRecord),
    "outcome": TypeAdapter(OutcomeRecord),
    "shadow": TypeAdapter(ShadowRecord),
    "window": TypeAdapter(WindowRecord),
}


@pytest.fixture(autouse=True)
def records_are_valid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check every logged record against the current schema; earlier versions are skipped."""
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
    """Start a Redis server that keeps its data; each test uses another ledger name."""
    with redis_server(tmp_path_factory.mktemp("redis"), appendonly="yes", appendfsync="no") as port:
        yield port


@pytest.fixture(scope="session")
def lasting_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_cluster(tmp_path_factory.mktemp("cluster"), appendonly="yes", appendfsync="no") as ports:
        yield ports[0]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, lasting_redis: int) -> Place:
    """Return the location of a new ledger, once for each kind of ledger."""
    return Place(request.param, tmp_path, lasting_redis)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a real artifact, which no test may change."""
    return save_artifact(tmp_path_factory.mktemp("artifact") / "challenger")
