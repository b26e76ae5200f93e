"""How far a run on a Kubeflow Pipelines server is: its steps, made of the tasks that KFP's API lists.

The API gives a step's container, its driver and every attempt of both as tasks of their own, without saying which
belong together. A step is a task that has a driver. Its container is called "executor", as that of every step; which
step it is of stands in its log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED", "ERROR")
"""States that a run does not leave."""

_EXECUTOR = "executor"
_POD_SECONDS = 2
_OURS = "mtorl: "  # what a step says at its end begins with this, see `mtorl.runtime.step`
_SIGNALS = {137: "killed (exit status 137): out of memory, or its node was", 143: "stopped (exit status 143)"}


@dataclass(frozen=True)
class StepState:
    """How far a step of a run is.

    Attributes:
        name: As in the pipeline, such as "train-challenger".
        state: RUNNING, SUCCEEDED, CACHED, SKIPPED, FAILED, NOT RUN (after a failure) ...
        seconds: From its start to its end, or to now.
        reason: Why it waits or has failed, as far as that can be found out; else empty.
    """

    name: str
    state: str
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class RunState:
    """How far a run is."""

    run_id: str
    name: str
    state: str
    created: datetime
    steps: tuple[StepState, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED


def step_states(tasks: Sequence[Any], reasons: Mapping[str, str], now: datetime | None = None) -> Iterator[StepState]:
    """The steps that have begun, in the order in which they did.

    Args:
        tasks: Of the API.
        reasons: Why steps wait or have failed, by name.
        now: The present, if not the clock's.
    """
    for step in steps_among(tasks):
        end = step.end_time if step.end_time and step.end_time.year > 1 else now or datetime.now(UTC)
        seconds = (end - step.start_time).total_seconds()
        # A pod takes longer than that to start.
        cached = step.state == "SUCCEEDED" and seconds < _POD_SECONDS and _skips(tasks, step)
        state = "CACHED" if cached else str(step.state or "NOT RUN")
        yield StepState(step.display_name, state, seconds, reasons.get(step.display_name, ""))


def steps_among(tasks: Sequence[Any]) -> list[Any]:
    """The tasks that are steps of the pipeline."""
    names = {task.display_name for task in tasks}
    steps = [task for task in tasks if f"{task.display_name}-driver" in names and task.display_name != "root"]
    return sorted(steps, key=lambda step: (step.start_time, step.display_name))


def failed_attempts(tasks: Sequence[Any]) -> list[str]:
    """The node of the last attempt of each container that has failed."""
    failed = [task for task in tasks if task.display_name == _EXECUTOR and task.state == "FAILED"]
    return [task.child_tasks[-1].pod_name for task in failed if task.child_tasks]


def attempts(tasks: Sequence[Any]) -> list[str]:
    """The node of the last attempt of each container that has begun, in the order in which they did."""
    begun = [task for task in tasks if task.display_name == _EXECUTOR and task.child_tasks]
    return [task.child_tasks[-1].pod_name for task in sorted(begun, key=lambda task: task.start_time)]


def step_in(log: str) -> str:
    """The name of the step that has printed a log; empty if it doesn't say."""
    found = re.search(r"Looking for component `(\w+)`", log)
    return found[1].replace("_", "-") if found else ""


def reason_in(log: str) -> str:
    """Why a step has failed, from what it has printed: its own words, the last line of a traceback, its exit status."""
    lines = [line.rstrip() for line in log.splitlines()]
    for start, line in enumerate(lines):
        if line.startswith(_OURS):
            said = lines[start:]
            end = next((i for i, later in enumerate(said) if _is_launchers(later)), len(said))
            return "\n".join(said[:end]).removeprefix(_OURS)
    errors = [line for line in lines if _is_error(line)]
    if errors:
        return errors[-1]
    status = re.search(r"failed to execute component: exit status (\d+)", log)
    return _SIGNALS.get(int(status[1]), f"exit status {status[1]}") if status else ""


def _skips(tasks: Sequence[Any], step: Any) -> bool:
    """Whether a container was skipped when a step started: its own, or that of a step that started with it."""
    return any(
        task.display_name == _EXECUTOR and task.state == "SKIPPED" and task.start_time == step.start_time
        for task in tasks
    )


def _is_launchers(line: str) -> bool:
    """Whether a line is of KFP's launcher, which writes as Go's glog does: I1126 06:16:43.4711 ..."""
    return re.match(r"[IWEF]\d{4} \d", line) is not None


def _is_error(line: str) -> bool:
    """Whether a line is the last one of a traceback."""
    return re.match(r"[\w.]+(Error|Exception|Exit|Interrupt|Diverged)(:|$)", line) is not None
