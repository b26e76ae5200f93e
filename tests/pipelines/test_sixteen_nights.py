"""Sixteen nights on one log that grows, without anybody looking: what is new is learnt, and nothing else grows.

The steps are those of every cluster, in processes of their own; the market is small, and so is the network.
"""

import os
from pathlib import Path

import pandas as pd
import psutil
import pytest

from mtorl.log import trainings
from mtorl.runtime.errors import InputError
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from pipelines.on_volume import Ended
from tests.pipelines.forked_steps import forked_steps, silent
from tests.pipelines.test_faulty_nights import Volume

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]

NIGHTS, BAD_NIGHT, KEPT = 16, 7, 3
FIRST_DAYS = 8


class Nights(Volume):
    """A volume on which each night finds a log of one day more."""

    def __init__(self, folder: Path) -> None:
        market = SimulatorConfig(users=1_000, days=FIRST_DAYS + NIGHTS + 1, seed=5)
        self._all = Simulator(market).log()
        self._days = sorted(self._all["timestamp"].dt.floor("D").unique())
        super().__init__(folder, self.until(0))

    def until(self, night: int) -> pd.DataFrame:
        """The log as it is in a night."""
        return self._all[self._all["timestamp"] < self._days[FIRST_DAYS + night]]

    def run(self, log: pd.DataFrame) -> Ended:
        log.to_parquet(self.log.with_suffix(".new"), index=False)
        self.log.with_suffix(".new").rename(self.log)  # as an export does it
        return self.night(silent, keep_versions=str(KEPT))

    def bytes_beside_the_log(self) -> int:
        files = (path for path in self.folder.rglob("*") if path.is_file() and path != self.log)
        return sum(path.stat().st_size for path in files)


def test_sixteen_nights_on_a_log_that_grows(tmp_path: Path) -> None:
    nights = Nights(tmp_path / "volume")
    published: list[str] = []
    disk: dict[int, int] = {}
    memory: dict[int, int] = {}
    with forked_steps():
        for night in range(NIGHTS):
            if night == BAD_NIGHT:
                before = nights.versions()
                cut = nights.until(night)
                with pytest.raises(InputError, match="has lost"):
                    nights.run(cut[cut["timestamp"] < cut["timestamp"].quantile(0.5)])
                assert nights.versions() == before, "nothing of it is published"
                told = nights.told()
                assert told is not None and told.failed and "validate" in told.why
            ended = nights.run(nights.until(night))
            assert ended.cached == (), "each night has something new"
            told = nights.told()
            assert told is not None and told.state == "SUCCEEDED" and told.failed_in_a_row == 0
            noted = trainings.read(nights.folder / "trainings")[-1]
            new = set(nights.versions()) - set(published)
            assert len(new) == (noted.decision == "promote"), f"what the gate lets pass, and only that: {noted.reason}"
            published += new
            disk[night], memory[night] = nights.bytes_beside_the_log(), psutil.Process(os.getpid()).memory_info().rss

        again = nights.run(nights.until(NIGHTS - 1))
    assert {"ingest", "build-features", "train-challenger", "evaluate"} <= set(again.cached)
    assert set(nights.versions()) <= set(published), "a night without anything new makes no version"

    assert NIGHTS / 2 < len(published) <= NIGHTS
    every = trainings.read(nights.folder / "trainings")
    rows = [sum(training.log.days.values()) for training in every]
    assert len(every) == NIGHTS + 1 and rows[:-1] == sorted(set(rows[:-1])) and rows[-1] == rows[-2]
    assert len(nights.versions()) <= KEPT + 1
    assert len(list((nights.folder / "runs" / "local").iterdir())) <= 4
    # The log grows by half in these nights; the versions and runs that are kept are as many as before. A night that
    # leaves a quarter of what it makes is one too many.
    assert disk[NIGHTS - 1] - disk[NIGHTS // 2] < 2 * disk[0], "what is kept does not grow with the nights"
    assert memory[NIGHTS - 1] - memory[4] < (NIGHTS - 5) * 4e6
