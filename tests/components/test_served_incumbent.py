"""Tests of finding the policy that serves users at present."""

import json
from pathlib import Path

import pandas as pd
import pytest

from components.served_incumbent.component import served_incumbent
from tests.lakes import upload


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def write(log: Path, *rows: tuple[str, str | None]) -> None:
    """Write decisions; those without a digest are fallbacks."""
    usual = {"model_name": None, "model_version": None}
    decisions = [
        {
            **usual,
            "fallback_reason": None if digest else "features",
            **{"arm": arm, "model_digest": digest, "event_time": f"2026-01-01T00:00:0{second}Z"},
            **{"withdrawn": False, "override": False},
        }
        for second, (arm, digest) in enumerate(rows)
    ]
    frame = pd.DataFrame(decisions).astype(object)
    upload(log, {"decision": frame.assign(decision_id=frame["event_time"])})


def publish(registry: Path, version: str, digest: str) -> Path:
    folder = registry / "challenger" / version / "artifact"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"digest": digest}))
    return folder


def test_the_policy_of_the_newest_decision_is_found_in_the_registry(log: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    promoted = publish(registry, "v2", "new")
    publish(registry, "v1", "old")
    assert served_incumbent.python_func("", str(registry)) == ("", ""), "before the first decision nothing serves"
    write(log, ("challenger", "new"), ("incumbent", None))
    assert served_incumbent.python_func(str(log), str(registry)) == ("", "")
    later = tmp_path / "later"
    write(later, ("incumbent", "old"), ("incumbent", "new"), ("challenger", "newest"), ("incumbent", None))
    assert served_incumbent.python_func(str(later), str(registry)) == (str(promoted), "")
