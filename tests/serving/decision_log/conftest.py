"""A spool of small segments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.decision_log import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", segment_bytes=20_000)
    yield spool
    spool.close()
