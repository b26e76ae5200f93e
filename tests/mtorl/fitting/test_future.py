"""Tests of the value of an exposure for later ones."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from mtorl.fitting import future
from mtorl.fitting.future import CLEAR, Answers, fit_future, foresight
from mtorl.network.ensemble import Ensemble
from mtorl.network.model import MTORL
from mtorl.window.encoder import Encoder
from mtorl.window.table import WindowTable
from tests.mtorl.artifact.test_artifact import network_config
from tests.mtorl.window.windows_folder import SPEC, STEPS

# An exposure gains LATER if the previous channel was GOOD, and otherwise nothing. Each exposure costs 1.
GOOD, LATER, PRICE = 1, 0.5, 0.2


class Foreseeing(Ensemble):
    """A network whose predicted gain depends only on the last channel."""

    def decoder_inputs(self, x_BTD, length_B):
        self.last_BC = x_BTD[torch.arange(len(x_BTD)), length_B - 1, : len(SPEC.channels)]
        return super().decoder_inputs(x_BTD, length_B)

    def inputs_after(self, x_BTD, length_BP, next_BPD):
        self.last_BC = next_BPD.flatten(0, 1)[:, : len(SPEC.channels)]
        return super().inputs_after(x_BTD, length_BP, next_BPD)

    def heads(self, inputs):
        ones_BC = torch.ones_like(self.last_BC)
        return 0 * ones_BC, LATER * self.last_BC[:, GOOD, None] * ones_BC, ones_BC


def world(click: np.ndarray | None = None, propensity: str = "logged", window: int = SPEC.window):
    """Return a log and a network, by default with clicks that follow the network's predictions."""
    chance = np.random.default_rng(0).random(len(STEPS))
    drawn = (chance < LATER) & (STEPS["channel"].shift() == SPEC.channels[GOOD]).to_numpy()
    rows = STEPS.assign(split="val", collected=False, click=drawn.astype(float) if click is None else click)
    spec = SPEC.replace(propensity=propensity, window=window)
    table = WindowTable(pa.Table.from_pandas(rows, preserve_index=False), rows, spec, "")
    encoder = Encoder.fit(table.windows("val", targets=True), spec)
    torch.manual_seed(0)
    return table, encoder, Foreseeing([MTORL(network_config(encoder)) for _ in range(2)]).eval()


def test_foresight_is_clear_only_if_predictions_come_true() -> None:
    table, encoder, ensemble = world()
    assert foresight(ensemble, encoder, table, seed=0) > CLEAR
    by_chance = (np.random.default_rng(1).random(len(STEPS)) < LATER / 3).astype(float)
    table, encoder, ensemble = world(by_chance)
    assert foresight(ensemble, encoder, table, seed=0) < CLEAR
    table, encoder, ensemble = world(window=1)
    assert np.isfinite(foresight(ensemble, encoder, table, seed=0)), "a window of a single token is valid"
    table, encoder, ensemble = world(propensity="markov")
    assert foresight(ensemble, encoder, table, seed=0) == 0.0, "estimated propensities give no evidence"
    alone = STEPS.groupby("user_id").head(1).assign(split="val", collected=False)
    lonely = WindowTable(pa.Table.from_pandas(alone, preserve_index=False), alone, SPEC, "")
    assert foresight(ensemble, encoder, lonely, seed=0) == 0.0


def test_the_future_value_is_the_change_of_the_next_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 1), ("_EPOCHS", 30), ("_BATCH", 32), ("HALF_LIFE_DAYS", 1e9)):
        monkeypatch.setattr(future, name, value)
    table, encoder, ensemble = world()
    windows = table.windows("val")
    ensemble.future = fit_future(ensemble, encoder, windows, PRICE, seed=0)
    with torch.inference_mode():
        inputs = ensemble.decoder_inputs(*map(torch.from_numpy, encoder.encode(windows)))
        added_BC2 = ensemble.future(inputs).numpy()
    changes_BC = (np.arange(len(SPEC.channels)) == GOOD) - ensemble.last_BC[:, GOOD, None].numpy()
    added_BC = added_BC2[..., 0] - PRICE * added_BC2[..., 1]
    slope = (added_BC * changes_BC).sum() / (changes_BC**2).sum()
    assert slope == pytest.approx(LATER - PRICE, rel=0.3)


def test_later_values_follow_the_decision_rule() -> None:
    gain_MC, cost_MC = torch.tensor([[0.5, 0.3], [0.1, 0.1]]), torch.ones(2, 2)
    after = Answers([], gain_MC, gain_MC, cost_MC)
    assert future._later(after, None, PRICE).tolist() == [pytest.approx([0.5, 1.0]), [0.0, 0.0]]
    level_M2, added_MC2 = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2, 2)
    added_MC2[:, 1, 0] = 0.4  # makes the second channel the better one
    ahead = SimpleNamespace(values=lambda inputs: (level_M2, added_MC2))
    later_M2 = future._later(after, ahead, PRICE)  # type: ignore[arg-type]
    assert later_M2.tolist() == [pytest.approx([1.7, 3.0]), pytest.approx([3.5, 5.0])]
