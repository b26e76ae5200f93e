"""Exports how the newest run of each pipeline ended, in the process that exports the monitor's findings.

The label is a pipeline's name; reasons are in no label. A file that can't be read keeps the last samples of its
pipeline, a removed file ends them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from monitoring.pipeline_runs import PipelineRun, newest_runs

MOST_PIPELINES = 50


class RunsCollector(Collector):
    """Collects the gauges of the runs at each scrape.

    Args:
        runs: Folder with a file for each pipeline; it may not exist.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._known: dict[str, PipelineRun] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges of the pipelines that ran last."""
        there = {path.stem for path in self._runs.glob("[!.]*.json")}
        known = {name: run for name, run in self._known.items() if name in there}
        self._known = known | {run.pipeline: run for run in newest_runs(self._runs)}
        failed = _gauge("run_failed", "1 if the newest run that nobody cancelled failed")
        in_a_row = _gauge("runs_failed_in_a_row", "Runs that have failed since one succeeded")
        end = _gauge("run_end_timestamp_seconds", "When the newest run ended")
        success = _gauge("last_success_timestamp_seconds", "When a run last succeeded")
        interval = _gauge("usual_interval_seconds", "How far apart its successes are at most, usually; after eleven")
        shown = sorted(self._known.values(), key=lambda run: run.at)[-MOST_PIPELINES:]
        for run in sorted(shown, key=lambda run: run.pipeline):
            name = [run.pipeline]
            failed.add_metric(name, float(run.failed_in_a_row > 0))
            in_a_row.add_metric(name, run.failed_in_a_row)
            end.add_metric(name, run.at.timestamp())
            if run.succeeded is not None:
                success.add_metric(name, run.succeeded.timestamp())
            if run.usual_interval is not None:
                interval.add_metric(name, run.usual_interval.total_seconds())
        yield from (failed, in_a_row, end, success, interval)


def _gauge(name: str, help_: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mtorl_pipeline_{name}", help_, labels=["pipeline"])
