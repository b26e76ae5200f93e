"""Sixteen nights on one log that grows, without anybody looking: what is new is learnt, and nothing else grows.

The steps are those of every cluster, in processes of their own; the market is small, and so is the network.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from mtorl.log import trainings
from mtorl.runtime.errors import InputError
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from pipelines.on_volume import Ended, run_on
from serving.registry import published_digest
from tests.pipelines.forked_steps import forked_steps, silent

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]

NIGHTS, BAD_NIGHT, KEPT = 16, 7, 3
FIRST_DAYS = 8
SMALL = "{hidden: 8, levels: 1, heads: 1}"


class Nights:
    """A volume on which each night finds a log of one day more."""

    def __init__(self, volume: Path) -> None:
        self.volume, self.log = volume, volume / "touchpoints.parquet"
        volume.mkdir()
        market = SimulatorConfig(users=1_000, days=FIRST_DAYS + NIGHTS + 1, seed=5)
        self._all = Simulator(market).log()
        self._days = sorted(self._all["timestamp"].dt.floor("D").unique())

    def until(self, night: int) -> pd.DataFrame:
        """The log as it is in a night."""
        return self._all[self._all["timestamp"] < self._days[FIRST_DAYS + night]]

    def run(self, log: pd.DataFrame) -> Ended:
        log.to_parquet(self.log.with_suffix(".new"), index=False)
        self.log.with_suffix(".new").rename(self.log)  # as an export does it
        given = {"source": str(self.log), "dataset": "simulator", "bad_rows": "quarantine", "epochs": "1"}
        given |= {
            "min_lift": "-9",
            "settings": SMALL,
            "keep_versions": str(KEPT),
        }  # the gate lets pass what it can value
        return run_on(self.volume, "train", given, silent)

    def versions(self) -> set[str]:
        found = (self.volume / "registry" / "challenger").glob("[!.]*")
        return {digest for version in found if (digest := published_digest(version)) is not None}

    def ended(self) -> dict[str, Any]:
        return json.loads((self.volume / "runs" / "mtorl-train.json").read_text())

    def bytes_beside_the_log(self) -> int:
        files = (path for path in self.volume.rglob("*") if path.is_file() and path != self.log)
        return sum(path.stat().st_size for path in files)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    return Nights(tmp_path_factory.mktemp("nights") / "volume")


def test_sixteen_nights_on_a_log_that_grows(nights: Nights) -> None:
    published: list[str] = []
    disk: dict[int, int] = {}
    memory: dict[int, int] = {}
    with forked_steps():
        for night in range(NIGHTS):
            if night == BAD_NIGHT:
                before = nights.versions()
                cut = nights.until(night)
                with pytest.raises(InputError, match="the log has lost"):
                    nights.run(cut[cut["timestamp"] < cut["timestamp"].quantile(0.5)])
                assert nights.versions() == before, "nothing of it is published"
                assert nights.ended()["state"] == "FAILED" and "validate" in nights.ended()["why"]
            ended = nights.run(nights.until(night))
            assert ended.cached == (), "each night has something new"
            assert nights.ended()["state"] == "SUCCEEDED" and nights.ended()["failed_in_a_row"] == 0
            noted = trainings.read(nights.volume / "trainings")[-1]
            new = nights.versions() - set(published)
            assert len(new) == (noted.decision == "promote"), f"what the gate lets pass, and only that: {noted.reason}"
            published += new
            disk[night], memory[night] = nights.bytes_beside_the_log(), psutil.Process(os.getpid()).memory_info().rss

        again = nights.run(nights.until(NIGHTS - 1))
    assert {"ingest", "build-features", "train-challenger", "evaluate"} <= set(again.cached)
    assert nights.versions() <= set(published), "a night without anything new makes no version"

    assert NIGHTS / 2 < len(published) <= NIGHTS
    every = trainings.read(nights.volume / "trainings")
    rows = [sum(training.log.days.values()) for training in every]
    assert len(every) == NIGHTS + 1 and rows[:-1] == sorted(set(rows[:-1])) and rows[-1] == rows[-2]
    assert len(nights.versions()) <= KEPT + 1
    assert len(list((nights.volume / "runs" / "local").iterdir())) <= 4
    # The log grows by half in these nights; the versions and runs that are kept are as many as before. A night that
    # leaves a quarter of what it makes is one too many.
    assert disk[NIGHTS - 1] - disk[NIGHTS // 2] < 2 * disk[0], "what is kept does not grow with the nights"
    assert memory[NIGHTS - 1] - memory[4] < (NIGHTS - 5) * 4e6
