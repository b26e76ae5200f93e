"""A trained network's distance: other users of the same kinds are as near as usual, users of new kinds are not.

That a measure of a day which rises is a ticket, the state distance among them: test_alarms.py, test_measures.py.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from mtorl.network.ensemble import train_ensemble
from mtorl.network.training import TrainConfig
from mtorl.network.user_state import fit_state_distance
from mtorl.simulator.market import CHANNELS
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.encoder import Encoder
from mtorl.window.loader import EncodedWindows, TrainingWindows
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch, instance_from_history


def test_new_kinds_of_users_are_far_and_more_of_the_same_are_not() -> None:
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

    def mean_distance(others: Simulator) -> tuple[float, float]:
        """Of the users of another market after the end of its log, with its standard error for 150 users."""
        asked = others.online(others.user_ids, 1, seed=5).rows(0)
        windows = [instance_from_history(r["history"], r["context"], r["static"], others.spec, r["at"]) for r in asked]
        arrays = encoder.encode(WindowBatch.from_instances(windows, others.spec))
        with torch.inference_mode():
            distance_U = trained.ensemble(*map(torch.from_numpy, arrays))[3].numpy()
        return float(distance_U.mean()), float(distance_U.std() / np.sqrt(150))

    same, active, loyal = (Simulator(SimulatorConfig(users=1_500, seed=11)) for _ in range(3))
    active._market.interest_UC[:] += 10.0  # they click on everything: no column of theirs is unusual, only their past
    loyal._market.tenure_U[:] = 3_650.0
    usual, error = mean_distance(same)
    assert usual == pytest.approx(1.0, abs=0.1)
    for new in (active, loyal):
        assert (mean_distance(new)[0] - usual) / 2 > 3.0 * error, "half of a day's users of that kind"
