"""OpenLineage events: that a publication began and how it ended, and the fingerprints of what it was made of."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from serving.versions.open_lineage import reported
from tests.serving.small_versions import digest, lineage, version

RUN = "b165a74e-2ac8-4cba-9f95-faac174c3018"


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that events are appended to."""
    file = tmp_path / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(file), "append": True}
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT", json.dumps(transport))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


def test_a_publication_begins_and_is_done(events: Path, tmp_path: Path) -> None:
    place = tmp_path / version(tmp_path, 1, known=lineage(1, parent=0))
    with reported("mtorl-train", RUN) as report:
        assert [event["eventType"] for event in read(events)] == ["START"]
        report(place)
    _, done = read(events)
    assert (done["eventType"], done["run"]["runId"]) == ("COMPLETE", RUN)
    assert done["job"]["namespace"] == "mtorl" and done["job"]["name"] == "mtorl-train"
    (log,), (model,) = done["inputs"], done["outputs"]
    assert (log["name"], log["facets"]["version"]["datasetVersion"]) == ("small", "da7a")
    assert (model["name"], model["facets"]["version"]["datasetVersion"]) == ("small.model.challenger", digest(1))


def test_a_publication_that_fails_says_so(events: Path) -> None:
    with pytest.raises(KeyboardInterrupt), reported("mtorl-train", RUN):
        raise KeyboardInterrupt
    assert [event["eventType"] for event in read(events)] == ["START", "FAIL"]


def test_a_laptops_run_has_a_name_of_that_form_too(events: Path) -> None:
    for run in ("12345678", "12345678", ""):
        with reported("mtorl-train", run):
            pass
    ids = [event["run"]["runId"] for event in read(events)]
    assert [uuid.UUID(found).version for found in ids] == [5, 5, 5, 5, 4, 4]
    assert len(set(ids)) == 2


def test_who_takes_no_events_stops_nobody(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT", json.dumps({"type": "http", "url": "http://127.0.0.1:1", "retry": {}}))
    with reported("mtorl-train", RUN):
        pass
    said = capsys.readouterr().out
    assert "OpenLineage's START was not taken" in said and "OpenLineage's COMPLETE was not taken" in said


def test_without_its_variables_there_are_no_events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import serving.versions.open_lineage as open_lineage

    monkeypatch.setattr(open_lineage, "_emit", None)  # would fail
    with reported("mtorl-train", RUN) as report:
        report(tmp_path)
