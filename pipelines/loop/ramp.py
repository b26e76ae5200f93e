"""Moves the experiment of a run through its stages, in the same way as `mtorl experiment run`."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import state_of
from mtorl.experiment.stage_machine import OVER, STAGES, Evidence, Hold, Phase
from mtorl.experiment.stages import CHALLENGER_SHARE, Stage
from mtorl.runtime.files import replacing
from pipelines.experiments.controller import act, apply_experiment, next_step, state
from pipelines.experiments.evidence import findings_or_error
from pipelines.experiments.folder import ExperimentFolder

FILE = "serving.yaml"
_SMALL: tuple[Stage, ...] = ("5%", "25%")
# Skip a small stage that would give the challenger fewer users than this.
_FEWEST = 5
_LATENCY_SECONDS = 0.5
"""Limit for the latency of a challenger in seconds, equal to the router's deadline. It is high because the load driver,
the router and the models share the same cores, so measured latencies vary."""


def experiment_of(run: Path) -> ExperimentFolder:
    """Return the files of a run's experiment."""
    return ExperimentFolder.of(run / FILE, dataset=run / "artifacts" / "challenger" / "dataset.yaml")


def port_of_models(folder: ExperimentFolder) -> int:
    """Read the port of the run's models from the experiment file.

    Raises ExperimentError if the endpoints of an edited file have no port or several ports.
    """
    ports = {urlsplit(arm.endpoint).port for arm in folder.definition().arms if arm.endpoint is not None}
    port = next(iter(ports), None)
    if port is None or len(ports) > 1:
        named = ", ".join("none" if port is None else str(port) for port in ports) or "none"
        raise ExperimentError(
            f"{folder.file}: its endpoints must have a single port, found {named}. Set the port of the run's models: "
            f"mtorl serve --run {folder.file.parent} --experiment {folder.file} --models-port PORT"
        )
    return port


def ramp_for(users: int, users_at_once: int) -> dict[str, Any]:
    """Build a ramp that takes minutes instead of days.

    Args:
        users_at_once: Number of users who send requests at each stage before the last one.
    """
    expected: dict[Stage, float] = {"shadow": users_at_once}
    if small := next((stage for stage in _SMALL if CHALLENGER_SHARE[stage] * users_at_once >= _FEWEST), None):
        expected[small] = CHALLENGER_SHARE[small] * users_at_once
    expected["50%"] = 0.5 * users
    return {
        # The number of users at a stage is random, so require half of its expected value.
        "stages": [
            {"stage": stage, "hours": 0, "users": max(1, round(number / 2))} for stage, number in expected.items()
        ],
        "latency_seconds": _LATENCY_SECONDS,
        "promote": True,
    }


@dataclass
class RunRamp:
    """The controller of a run's experiment.

    Attributes:
        waits: Reasons why the last step made no move. Empty if the step made one.
    """

    folder: ExperimentFolder
    waits: tuple[str, ...] = field(default=(), init=False)

    @property
    def phase(self) -> Phase:
        """Return the present phase of the experiment."""
        return state(self.folder)[1].phase

    @property
    def at_last_stage(self) -> bool:
        """Return whether the experiment is at its last stage, at which the verdict decides."""
        ramp = self.folder.definition().ramp
        return ramp is not None and self.phase == ramp.stages[-1].stage

    @property
    def last_stage(self) -> Stage:
        """Return the highest stage that the experiment has entered."""
        reached = {event.to for event in self.folder.events()}
        return [stage for stage in STAGES if stage in reached][-1]

    @property
    def over(self) -> bool:
        """Return whether the experiment has ended."""
        return self.phase in OVER

    def start(self) -> None:
        """Move the experiment from the draft to its first stage."""
        ramp = self.folder.definition().ramp
        assert ramp is not None, "a run's file has a ramp"
        first = ramp.stages[0].stage
        act(self.folder, "move", by="person", reason="the traffic of the run begins", at=time.time(), to=first)

    def step(self) -> None:
        """Read the log, and make the next move of the ramp if its conditions are met."""
        now = time.time()

        def read_evidence(served: Experiment, since: float) -> Evidence | None:
            return findings_or_error(self.folder, served, since, now).evidence

        step = next_step(self.folder, read_evidence, now)
        self.waits = step.reasons if isinstance(step, Hold) else ()

    def summary(self) -> dict[str, Any]:
        """Return the phase and all moves, for summary.json."""
        experiment, events = self.folder.definition(), self.folder.events()
        return {
            "phase": state_of(events, experiment).phase,
            "waits": list(self.waits),
            "moves": [
                {
                    "to": event.to,
                    "at": datetime.fromtimestamp(event.at, UTC).isoformat(timespec="seconds"),
                    "by": event.by,
                    "reason": event.reason,
                    "users": {name: arm["users"] for name, arm in (event.evidence or {"arms": {}})["arms"].items()},
                }
                for event in events
            ],
        }


def write_file(run: Path, content: str) -> ExperimentFolder:
    """Write the experiment file of a run, and apply it as a draft."""
    with replacing(run / FILE) as unfinished:
        unfinished.write_text(content, encoding="utf-8")
    folder = experiment_of(run)
    apply_experiment(folder)
    return folder
