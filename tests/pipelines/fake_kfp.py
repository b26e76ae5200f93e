"""A Kubeflow Pipelines server that keeps all in memory: the calls of `kfp.Client` that are made, and its scheduler."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import yaml
from cronsim import CronSim

from tests.repository import ROOT

TRAIN = ROOT / "manifests" / "pipelines" / "production" / "mtorl-train.yaml"
SPEC = next(yaml.safe_load_all(TRAIN.read_text()))


class FakeClient:
    """The calls of `kfp.Client` that `Server` makes."""

    def __init__(self) -> None:
        self.pipelines = SimpleNamespace(pipeline_service_create_pipeline=self._create)
        self._made: dict[str, str] = {}  # name -> id
        self._uploaded: dict[str, list[Any]] = {}  # pipeline's id -> versions, the newest first
        self.run: dict[str, Any] = {}

    def _create(self, pipeline: Any) -> Any:
        self._made[pipeline.display_name] = f"id-of-{pipeline.display_name}"
        return SimpleNamespace(pipeline_id=self._made[pipeline.display_name])

    def list_pipelines(self, filter: str, namespace: str | None) -> Any:
        assert namespace == "mtorl"
        name = json.loads(filter)["predicates"][0]["stringValue"]
        found = [SimpleNamespace(pipeline_id=self._made[name])] if name in self._made else None
        return SimpleNamespace(pipelines=found)

    def list_pipeline_versions(self, pipeline_id: str, **_: Any) -> Any:
        return SimpleNamespace(pipeline_versions=self._uploaded.get(pipeline_id))

    def upload_pipeline_version(self, path: str, name: str, *, pipeline_id: str) -> Any:
        version = SimpleNamespace(display_name=name, pipeline_version_id=f"id-of-{name}")
        self._uploaded.setdefault(pipeline_id, []).insert(0, version)
        return version

    def get_pipeline_version(self, pipeline_id: str, version_id: str) -> Any:
        return SimpleNamespace(pipeline_spec={"pipeline_spec": SPEC, "platform_spec": {}})

    def create_experiment(self, name: str, namespace: str | None) -> Any:
        return SimpleNamespace(experiment_id=f"{namespace}/{name}")

    def run_pipeline(self, experiment_id: str, name: str, **run: Any) -> Any:
        self.run = run
        return SimpleNamespace(run_id="run-1")


class CutOff(Exception):
    """The machine that calls is gone."""


class FakeScheduler(FakeClient):
    """Recurring runs too, and a clock: between two calls whatever is due is started, as KFP's controller does it.

    Attributes:
        now: The time.
        started: What was started: name, content of the recurring run, and for when it was due.
        quick: Whether the controller looks between two calls too, and not only while time passes.
        calls: How many calls that change something were made.
        cut_off: After how many such calls the caller is gone; None for never.
    """

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self.now = now
        self.started: list[tuple[str, str, datetime]] = []
        self.quick = True
        self.calls = 0
        self.cut_off: int | None = None
        self.recurring: dict[str, Any] = {}  # id -> recurring run, the oldest first
        self._last: dict[str, datetime] = {}  # id -> for when its newest run was due
        self._ids = 0
        self.recurring_runs = SimpleNamespace(
            recurring_run_service_create_recurring_run=self._make,
            recurring_run_service_delete_recurring_run=self._delete,
        )

    def list_recurring_runs(self, page_token: str, page_size: int, sort_by: str, namespace: str | None) -> Any:
        """Page by page, of one each."""
        assert namespace == "mtorl" and sort_by == "created_at" and page_size > 0
        there, first = list(self.recurring.values()), int(page_token or 0)
        following = str(first + 1) if first + 1 < len(there) else None
        return SimpleNamespace(recurring_runs=there[first : first + 1] or None, next_page_token=following)

    def enable_recurring_run(self, run_id: str) -> None:
        self._look()
        self.recurring[run_id].status = "ENABLED"
        self._changed()

    def disable_recurring_run(self, run_id: str) -> None:
        self._look()
        self.recurring[run_id].status = "DISABLED"
        self._changed()

    def _make(self, made: Any) -> Any:
        self._look()
        self._ids += 1
        made.recurring_run_id, made.created_at = f"recurring-{self._ids}", self.now
        made.status = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[made.mode]
        self.recurring[made.recurring_run_id] = made
        self._changed()
        return made

    def _delete(self, run_id: str, propagation_policy: str = "") -> None:
        assert propagation_policy == "ORPHAN", "Kubernetes would end its running runs"
        self._look()
        del self.recurring[run_id]
        self._changed()

    def _look(self) -> None:
        if self.quick:
            self.tick()

    def _changed(self) -> None:
        self.now += timedelta(milliseconds=300)
        self.calls += 1
        if self.calls == self.cut_off:
            raise CutOff

    def let(self, seconds: float) -> None:
        """Time passes, and again and again the controller looks."""
        end, pause = self.now + timedelta(seconds=seconds), timedelta(seconds=max(10, seconds / 500))
        while self.now < end:
            self.now = min(self.now + pause, end)
            self.tick()

    def tick(self) -> None:
        """Start what is due. Without catching up, that is the newest time since the last one, or since it was made."""
        for run_id, one in self.recurring.items():
            if one.status != "ENABLED":
                continue
            times = CronSim(one.trigger.cron_schedule.cron, self._last.get(run_id, one.created_at).astimezone(UTC))
            due = None
            while (following := next(times)) <= self.now:
                due = following
            if due:
                self._last[run_id] = due
                self.started.append((one.display_name, one.description, due))
