import errno
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.pipeline_runs import PipelineRun, newest_runs
from monitoring.watch.exporter import MOST_PIPELINES, RunsCollector

START = datetime(2026, 1, 1, 3, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def end(runs: Path, at: datetime, state: str = "SUCCEEDED", pipeline: str = "mtorl-train") -> PipelineRun:
    why = {"ingest": "no such file"} if state == "FAILED" else {}
    PipelineRun.ended(pipeline, state, why, "", at).write(runs)
    (known,) = [run for run in newest_runs(runs) if run.pipeline == pipeline]
    return known


def scrape(collector: RunsCollector) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(collector)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    samples = [sample for family in families for sample in family.samples]
    assert all(set(sample.labels) == {"pipeline"} for sample in samples)
    return {(each.name.removeprefix("mtorl_pipeline_"), each.labels["pipeline"]): each.value for each in samples}


def test_failures_are_counted_until_one_succeeds(tmp_path: Path) -> None:
    states = ["FAILED", "FAILED", "SUCCEEDED", "FAILED", "CANCELLED", "FAILED"]
    found = [end(tmp_path, START + n * DAY, state) for n, state in enumerate(states)]
    assert [run.failed_in_a_row for run in found] == [1, 2, 0, 1, 1, 2]
    assert [run.succeeded for run in found] == [None, None, *[START + 2 * DAY] * 4]
    assert found[2].why == {} and found[4].why == {"ingest": "no such file"}, "a cancelled run keeps the reason"


def test_a_full_disk_keeps_a_failure_in_place_of_a_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for night in range(12):
        end(tmp_path, START + night * DAY)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr("mtorl.runtime.files._swap", full_disk)
    words = {"ingest": "No space left on device " * 1000, "notify": "likewise"}
    PipelineRun.ended("mtorl-train", "FAILED", words, "", START + 12 * DAY).write(tmp_path)
    (known,) = newest_runs(tmp_path)
    assert known.failed_in_a_row == 1 and known.succeeded == START + 11 * DAY and known.usual_interval == DAY
    assert known.why["ingest"].startswith("No space left on device") and file.stat().st_size <= 4096
    end(tmp_path, START + 13 * DAY)
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(OSError, match="No space left"):
        end(tmp_path, START, pipeline="another")


def full_disk(*_: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("hours", "usual"),
    [
        ([24 * night for night in (*range(11), *range(14, 40))], DAY),  # with three nights missing
        ([24 * night for night in range(1, 60) if (START + night * DAY).weekday() < 5], 3 * DAY),
        ([run / 3 for run in range(30)], None),  # manual runs, no schedule
    ],
    ids=["nights", "no-weekends", "an-afternoon"],
)
def test_the_usual_interval_needs_eleven_successes(hours: list[float], usual: timedelta | None, tmp_path: Path) -> None:
    found = []
    for hour in hours:
        found.append(end(tmp_path, START + hour * HOUR))
        end(tmp_path, START + hour * HOUR + timedelta(minutes=5), "FAILED")
    assert {run.usual_interval for run in found[:10]} == {None} and {run.usual_interval for run in found[10:]} == {
        usual
    }
    assert found[-1].succeeded == START + hours[-1] * HOUR and len(found[-1].successes) <= 11


def test_metrics_of_pipeline_runs(tmp_path: Path) -> None:
    collector = RunsCollector(tmp_path / "runs")
    assert scrape(collector) == {}, "no run, no metrics"
    for night in range(11):
        end(tmp_path / "runs", START + night * DAY)
    end(tmp_path / "runs", START + 11 * DAY, "FAILED")
    end(tmp_path / "runs", START, "FAILED", "mtorl-retrain")
    assert scrape(collector) == {
        ("run_failed", "mtorl-train"): 1.0,
        ("runs_failed_in_a_row", "mtorl-train"): 1.0,
        ("run_end_timestamp_seconds", "mtorl-train"): (START + 11 * DAY).timestamp(),
        ("last_success_timestamp_seconds", "mtorl-train"): (START + 10 * DAY).timestamp(),
        ("usual_interval_seconds", "mtorl-train"): 86400.0,
        ("run_failed", "mtorl-retrain"): 1.0,
        ("runs_failed_in_a_row", "mtorl-retrain"): 1.0,
        ("run_end_timestamp_seconds", "mtorl-retrain"): START.timestamp(),
    }
    end(tmp_path / "runs", START + 12 * DAY, "CANCELLED")
    assert scrape(collector)["run_failed", "mtorl-train"] == 1.0, "no success since the failure"
    end(tmp_path / "runs", START + 13 * DAY)
    assert scrape(collector)["run_failed", "mtorl-train"] == 0.0


COMPLETE = '{"pipeline": "mtorl-train", "state": "COMPLETE", "at": "2026-01-01T03:00:00Z", "failed_in_a_row": 1}'


@pytest.mark.parametrize(
    "text", ["", "{", '{"pipeline": "mtorl-train"}', COMPLETE], ids=["empty", "half", "another", "no state of a run"]
)
def test_an_unreadable_file_does_not_clear_an_alert(text: str, tmp_path: Path) -> None:
    collector = RunsCollector(tmp_path)
    end(tmp_path, START, "FAILED")
    known = scrape(collector)
    (tmp_path / "mtorl-train.json").write_text(text)
    assert scrape(collector) == known and scrape(RunsCollector(tmp_path)) == {}
    (tmp_path / "mtorl-train.json").unlink()
    assert scrape(collector) == {}, "a deleted file ends its series"


def test_the_number_of_series_is_bounded(tmp_path: Path) -> None:
    for n in range(MOST_PIPELINES + 10):
        end(tmp_path, START + n * HOUR, "FAILED", f"p{n:03}")
    shown = {pipeline for _, pipeline in scrape(RunsCollector(tmp_path))}
    assert shown == {f"p{n:03}" for n in range(10, MOST_PIPELINES + 10)}, "keep the latest"
