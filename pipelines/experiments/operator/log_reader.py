"""Reads the decision log of an experiment in a subprocess.

Computing a verdict takes up to a minute. In the operator's own process, this would delay a kill switch.
"""

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any

from monitoring.experiments.findings import Findings
from mtorl.experiment.experiment import Experiment
from mtorl.log.gain import Gain
from mtorl.log.touchpoints import LogError
from pipelines import messages


class LogReader:
    """A reader of the decision log.

    Args:
        lake: Folder or URI of the lake with the log.
        gain: Definition of the metric "gain_per_decision".
    """

    def __init__(self, lake: str, gain: Gain) -> None:
        self._lake = lake
        self._gain = gain
        self._pool: ProcessPoolExecutor | None = None

    def read(self, experiment: Experiment, since: float, now: float) -> Findings:
        """Read the findings about the present stage of an experiment.

        Args:
            since: Time at which the stage began, in seconds since 1970.

        Raises:
            LogError: The log, or a table that the verdict needs, can't be read.
        """
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_end_with_parent)
        served = experiment.model_dump(mode="json")
        try:
            return self._pool.submit(_read, self._lake, served, self._gain, since, now).result()
        except BrokenProcessPool:
            self._pool = None
            raise LogError(f"{self._lake}: the process that read the log was killed, perhaps out of memory") from None

    def close(self) -> None:
        """Stop the subprocess."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Make this subprocess exit as soon as the operator exits, even if the operator is killed."""
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _read(lake: str, experiment: dict[str, Any], gain: Gain, since: float, now: float) -> Findings:
    import duckdb

    from monitoring.decision_log import DecisionLog, PeriodError
    from monitoring.experiments.findings import findings_of

    try:
        return findings_of(DecisionLog.of(lake), Experiment.from_dict(experiment), gain, since, now)
    except (duckdb.Error, PeriodError, OSError) as error:
        raise LogError(messages.LOG_FAULT(where=lake, fault=str(error).splitlines()[0])) from None
