"""What the decision log says of an experiment, found in a process of its own.

A verdict on millions of decisions takes a minute of computing. In the operator's own process the kill switch would wait
for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from monitoring.experiments.document import Spend, Traffic
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.stage_machine import Evidence
from mtorl.log.gain import Gain
from mtorl.log.touchpoints import LogError


@dataclass(frozen=True)
class Found:
    """What is known.

    Attributes:
        evidence: For the stage machine.
        verdict: The whole of it, as `monitoring.verdict` has it.
        traffic: Channels of each arm.
        spend: Of each account.
    """

    evidence: Evidence
    verdict: dict[str, Any]
    traffic: Traffic | None = None
    spend: Sequence[Spend] = ()


class LogReader:
    """Reads the log of all routers.

    Args:
        folder: Where each router has exported its own.
        gain: What "gain_per_decision" means.
    """

    def __init__(self, folder: Path, gain: Gain) -> None:
        self._folder = folder
        self._gain = gain
        self._pool: ProcessPoolExecutor | None = None

    def look(self, experiment: Experiment, since: float, now: float) -> Found | None:
        """What is known now; None: nobody has decided anything yet.

        Args:
            experiment: As it is in force.
            since: When its time at this stage began, seconds since 1970.
            now: Seconds since 1970.

        Raises:
            LogError: The log can't be read.
        """
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_end_with_parent)
        served = experiment.model_dump(mode="json")
        try:
            return self._pool.submit(_look, self._folder, served, self._gain, since, now).result()
        except BrokenProcessPool:
            self._pool = None
            raise LogError(f"{self._folder}: the process that read it was ended, for want of memory perhaps") from None

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """An operator that is killed leaves no reader behind, which would wait for the next look for ever."""
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _look(folder: Path, experiment: dict[str, Any], gain: Gain, since: float, now: float) -> Found | None:
    import duckdb

    from monitoring.decision_log import DecisionLog
    from monitoring.experiments.traffic import spend_of, traffic_of
    from monitoring.period import PeriodError
    from monitoring.stage_evidence import stage_evidence
    from monitoring.verdict import verdict_from_log

    made = Experiment.from_dict(experiment)
    try:
        log = DecisionLog.in_folder(folder)
        if not log.holds_any():
            return None
        verdict = verdict_from_log(log, made, gain)
        evidence = stage_evidence(log, made, gain, since, verdict)
        assert evidence is not None
        return Found(evidence, verdict, traffic_of(log, made), spend_of(log, made, now))
    except (duckdb.Error, PeriodError, OSError) as error:
        raise LogError(f"{folder}: the log can't be read: {str(error).splitlines()[0]}") from None
