"""Fixtures with a spool of small segments, and with shippers of short pauses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.decision_log import Spool
from tests.serving.shipping import hurry


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", segment_bytes=20_000)
    yield spool
    spool.close()
