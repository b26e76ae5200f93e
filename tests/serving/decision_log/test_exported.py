"""How old an export is: nothing while nothing is missing, and else the time since it last looked."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from serving.decision_log import Spool, exported
from serving.decision_log.export import export_segments
from tests.serving.shipping import put


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    at = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: at[0])
    return at


def test_an_export_ages_only_while_something_is_missing(spool: Spool, tmp_path: Path, now: list[float]) -> None:
    mark, started = tmp_path / "exported.json", now[0]

    def age() -> float:
        return exported.age(mark, spool.folder, started)

    assert age() == 0.0, "an empty log"
    put(spool, "decision", "d0")
    now[0] += 300
    assert age() == 300, "none yet: since the start"
    export_segments(spool.folder, tmp_path / "out", mark)
    assert age() == 0.0
    now[0] += 50_000
    assert age() == 0.0, "a night without traffic"
    put(spool, "outcome", "e0", decision_id="d0")
    assert age() == 50_000, "the export has not run all night"
    export_segments(spool.folder, tmp_path / "out", mark)
    assert age() == 0.0


def test_one_that_fails_grows_older(spool: Spool, tmp_path: Path, now: list[float]) -> None:
    mark = tmp_path / "exported.json"
    put(spool, "decision", "d0")
    export_segments(spool.folder, tmp_path / "out", mark)
    put(spool, "decision", "d1")
    now[0] += 7_200
    (tmp_path / "full").write_text("no folder can be made here")
    with pytest.raises(OSError):
        export_segments(spool.folder, tmp_path / "full", mark)
    assert exported.age(mark, spool.folder, 0.0) == 7_200


def test_records_that_came_during_an_export_are_missing(spool: Spool, tmp_path: Path, now: list[float]) -> None:
    mark = tmp_path / "exported.json"
    put(spool, "decision", "d0")
    sizes = {path.stem: path.stat().st_size for path in spool.folder.glob("decision-*.jsonl")}
    put(spool, "decision", "d1")
    exported.note(mark, now[0], sizes)
    now[0] += 10
    assert exported.age(mark, spool.folder, 0.0) == 10


@pytest.mark.parametrize("content", ["", "[]", '{"began": "noon", "sizes": {}}', json.dumps({"sizes": {}})])
def test_a_file_that_is_none_counts_as_no_export(content: str, spool: Spool, tmp_path: Path, now: list[float]) -> None:
    (tmp_path / "exported.json").write_text(content)
    put(spool, "decision", "d0")
    assert exported.age(tmp_path / "exported.json", spool.folder, now[0] - 60) == 60
