"""From a trained network to an alarm: other users of the same kinds are no news, users of new kinds are a ticket."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from monitoring.decision_log import DecisionLog, Period
from monitoring.watch.measure_alarms import judge
from monitoring.watch.measures import measure
from monitoring.watch.state import Stream
from mtorl.log.gain import Gain
from mtorl.network.ensemble import train_ensemble
from mtorl.network.training import TrainConfig
from mtorl.network.user_state import fit_state_distance
from mtorl.simulator.market import CHANNELS
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.encoder import Encoder
from mtorl.window.loader import EncodedWindows, TrainingWindows
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch, instance_from_history
from tests.features.collect.decision_logs import SPEC, START, decision, write

USERS_A_DAY = 150
STREAM = "performance/mtorl-vs-frequency/challenger/state_distance"


@pytest.fixture(scope="module")
def distance_of() -> Callable[[Simulator], np.ndarray]:
    """A network that was trained on one market: the distance of each user of another one, after the end of its log."""
    torch.set_num_threads(1)
    simulator = Simulator(SimulatorConfig(users=300, seed=3))
    rows = simulator.log().assign(split="train")
    rows["step"] = rows.groupby("user_id").cumcount()
    table = WindowTable(pa.Table.from_pandas(rows, preserve_index=False), rows, simulator.spec, "")
    encoder = Encoder.fit(table.windows("train"), simulator.spec)
    part = EncodedWindows(table.tiles("train"), encoder)
    config = TrainConfig(epochs=3, batch_size=64, device="cpu")
    trained = train_ensemble(TrainingWindows([part], [part], len(CHANNELS)), config, members=1)
    fit_state_distance(trained.ensemble, encoder, table.windows("train"))

    def of(others: Simulator) -> np.ndarray:
        asked = others.online(others.user_ids, 1, seed=5).rows(0)
        windows = [instance_from_history(r["history"], r["context"], r["static"], others.spec, r["at"]) for r in asked]
        arrays = encoder.encode(WindowBatch.from_instances(windows, others.spec))
        with torch.inference_mode():
            return trained.ensemble(*map(torch.from_numpy, arrays))[3].numpy()

    return of


def others() -> Simulator:
    return Simulator(SimulatorConfig(users=1_500, seed=11))


def who_click_on_everything() -> Simulator:
    """No column of theirs is unusual, only their past is."""
    market = others()
    market._market.interest_UC[:] += 10.0
    return market


def of_ten_years() -> Simulator:
    market = others()
    market._market.tenure_U[:] = 3_650.0
    return market


class Days:
    """Days of a decision log, and the streams of a monitor that has judged each of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number, self.streams = folder, 0, dict[str, Stream]()

    def alarms_after(self, distance_U: np.ndarray) -> dict[str, str]:
        """Write a day with these users and judge it."""
        first, self.number = START + timedelta(days=self.number), self.number + 1
        users = np.random.default_rng(self.number).choice(distance_U, USERS_A_DAY, replace=False)
        of_users = {f"u{i}": float(value) for i, value in enumerate(users)}
        minutes = (first - START) / timedelta(minutes=1)
        rows = [
            decision(f"{self.number}-{user}", minutes, user_id=user, state_distance=value, expose=False)
            for user, value in of_users.items()
        ]
        log = DecisionLog.in_folder(
            write(self.folder / str(self.number), rows),
            Period(first.isoformat(), (first + timedelta(days=1)).isoformat()),
        )
        counted = measure(log, Gain.of_spec("click"), SPEC.outcome_kinds, SPEC.channels)
        judge(self.streams, counted.measured, first + timedelta(days=1))
        return {name: s.alarm.kind for name, s in self.streams.items() if s.alarm is not None}


@pytest.mark.parametrize("new", [who_click_on_everything, of_ten_years], ids=lambda kind: kind.__name__)
def test_new_kinds_of_users_are_a_ticket_and_more_of_the_same_are_none(
    distance_of: Callable[[Simulator], np.ndarray], new: Callable[[], Simulator], tmp_path: Path
) -> None:
    usual, newcomers = distance_of(others()), distance_of(new())
    days = Days(tmp_path)
    assert not any(days.alarms_after(usual) for _ in range(16))
    assert days.streams[STREAM].value == pytest.approx(1.0, abs=0.1)
    half = np.concatenate([usual, newcomers])
    assert [days.alarms_after(half) for _ in range(4)][-1] == {STREAM: "drift"}
    assert not [days.alarms_after(usual) for _ in range(8)][-1], "it ends with them"
