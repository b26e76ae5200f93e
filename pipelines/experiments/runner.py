"""Moves the experiments of some files through their ramps, for the command `mtorl experiment run`.

A second thread applies edits of the files, because the first thread may need minutes to read a large log.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from monitoring.experiments.document import View
from monitoring.experiments.findings import Findings
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.messages import NO_RAMP
from mtorl.experiment.stage_machine import OVER, Evidence, Hold, Move
from mtorl.runtime.clock_jumps import ClockJumps
from mtorl.runtime.errors import InputError
from pipelines.experiments.controller import BELIEVED_AFTER, apply_experiment, next_step, state
from pipelines.experiments.evidence import findings_or_error, view_of
from pipelines.experiments.folder import ExperimentFolder

Tell = Callable[[str, Move | Hold | None, str], None]
"""Reports a change, given the experiment's file, the controller's step (None: a fault), and a description."""
# A person can fix these errors while the runner continues.
_MENDABLE = (InputError, OSError)
_EDITS_SECONDS = 1.0


class Runner:
    """A controller of experiment files. It calls `tell` after each move, and for each new reason to wait."""

    def __init__(self, folders: Sequence[ExperimentFolder], tell: Tell) -> None:
        self._folders = folders
        self._ramps = [folder for folder in folders if not folder.router_reads_file()]
        self._tell = tell
        self._clock: Callable[[], float] = time.time
        self._jumps = ClockJumps(time.monotonic)
        self._kinds: dict[str, str] = {}
        self._views: dict[str, View] = {}
        self._closed = threading.Event()
        self._edits = threading.Thread(target=self._follow_edits, daemon=True, name="edits")

    def __enter__(self) -> Runner:
        """Apply all files, and start to watch for edits. Raises an error if a file is invalid."""
        for folder in self._ramps:
            apply_experiment(folder)
        self._edits.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._edits.join()

    @property
    def views(self) -> Sequence[View]:
        """Return the documents of the experiments."""
        return list(self._views.values())

    def advance(self, strict: bool = False) -> bool:
        """Make the next step of each experiment, and return whether all experiments are over.

        Args:
            strict: Raise errors instead of only reporting them.
        """
        return all([self._advance(folder, strict) for folder in self._folders])

    def _advance(self, folder: ExperimentFolder, strict: bool) -> bool:
        now = self._clock()
        reached = self._jumps.before(now, BELIEVED_AFTER) + BELIEVED_AFTER
        findings: dict[tuple[str, float], Findings] = {}

        def evidence(served: Experiment, since: float) -> Evidence | None:
            findings[served.version, since] = found = findings_or_error(folder, served, since, now)
            return found.evidence

        over = False
        step: Move | Hold | None = None
        try:
            if folder in self._ramps:
                step = next_step(folder, evidence, now, reached)
                over = state(folder)[1].phase in OVER
            else:
                step = Hold((NO_RAMP(),))
            words = f"{step.to}: {step.reason}" if isinstance(step, Move) else f"waits: {'; '.join(step.reasons)}"
        except _MENDABLE as error:
            step = None
            if strict:
                raise
            words = f"{'switched off; nothing else' if folder.switched_off() else 'nothing'} changes: {error}"
        # Keep the previous document if a new one can't be built.
        with suppress(*_MENDABLE):
            self._views[folder.name] = view_of(folder, now, findings=findings)
        kind = re.sub(r"[\d.,+-]+", "", words)
        # Do not repeat a message that differs only in its numbers.
        if kind != self._kinds.get(folder.name) or isinstance(step, Move):
            self._tell(folder.name, step, words)
            self._kinds[folder.name] = kind
        return over

    def _follow_edits(self) -> None:
        while not self._closed.wait(_EDITS_SECONDS):
            for folder in self._ramps:
                with suppress(*_MENDABLE):
                    apply_experiment(folder)
