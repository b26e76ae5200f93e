"""The operator as a process."""

from __future__ import annotations

import asyncio
import getpass
import threading
from pathlib import Path
from typing import cast

import pytest

from pipelines.experiments.operator.operator import Operator
from pipelines.experiments.operator.start import _hear


def test_it_begins_where_its_user_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")  # as in a container

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(TimeoutError):  # it goes on looking for an API server
        asyncio.run(asyncio.wait_for(_hear(cast(Operator, None), "ads", threading.Event()), 1.0))
