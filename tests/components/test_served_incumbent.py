"""Which policy the next challenger has to beat."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from components.served_incumbent import served_incumbent


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log" / "mtorl-router-0").mkdir(parents=True)
    return tmp_path / "log"


def write(log: Path, *rows: tuple[str, str | None]) -> None:
    decisions = [
        {"arm": arm, "model_digest": digest, "event_time": f"2026-01-01T00:00:0{second}Z"}
        for second, (arm, digest) in enumerate(rows)
    ]
    frame = pd.DataFrame(decisions).astype({"model_digest": "string"})
    frame.to_parquet(log / "mtorl-router-0" / "decisions.parquet")


def publish(registry: Path, version: str, digest: str) -> Path:
    folder = registry / "challenger" / version / "artifact"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"digest": digest}))
    return folder


def test_the_incumbents_newest_model_is_found_where_it_was_published(log: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    promoted = publish(registry, "v2", "new")
    publish(registry, "v1", "old")
    write(log, ("incumbent", "old"), ("incumbent", "new"), ("challenger", "newest"), ("incumbent", None))
    assert served_incumbent.python_func(str(log), str(registry)) == str(promoted)


def test_nothing_serves_before_the_first_decision_of_a_model(log: Path, tmp_path: Path) -> None:
    registry = str(tmp_path / "registry")
    assert served_incumbent.python_func("", registry) == served_incumbent.python_func(str(log), registry) == ""
    write(log, ("challenger", "new"), ("incumbent", None))
    assert served_incumbent.python_func(str(log), registry) == ""


def test_a_model_that_nobody_published_ends_the_step(log: Path, tmp_path: Path) -> None:
    write(log, ("incumbent", "new"))
    with pytest.raises(SystemExit, match="digest new, is not in the registry"):
        served_incumbent.python_func(str(log), str(tmp_path / "registry"))
