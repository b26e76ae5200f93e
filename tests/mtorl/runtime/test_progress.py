"""Reports reach whoever listens: this process, or the file that another one reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtorl.runtime import progress


def test_a_listener_hears_this_process_until_the_end_of_its_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "events.jsonl"
    monkeypatch.setenv(progress.ENV, str(file))
    outer: list[tuple[float, float, str]] = []
    inner: list[tuple[float, float, str]] = []
    with progress.listen(lambda *report: outer.append(report)):
        progress.report(1, 4, "a quarter")
        with pytest.raises(RuntimeError), progress.listen(lambda *report: inner.append(report)):
            progress.report(2, 4)
            raise RuntimeError
        progress.report(3, 4)
    assert (outer, inner) == ([(1, 4, "a quarter"), (3, 4, "")], [(2, 4, "")])
    assert not file.exists()
    progress.report(4, 4)
    assert progress.read(file, 0)[0] == [{"done": 4, "total": 4, "note": ""}]


def test_what_follows_a_report_goes_forward_only() -> None:
    told: list[tuple[float, float, str]] = []
    with progress.listen(lambda *report: told.append(report)):
        progress.report(2, 5, "user_history", ahead=0.5)
        for share in (0.2, 0.8, 0.1):  # a second query
            progress.within(share)
        progress.advance()
        progress.within(1.0)
        progress.advance()
    assert told == [(done, 5, "user_history") for done in (2, 2.1, 2.4, 2.4, 2.5, 3.0, 3.0)]
