"""Tests that the distance of a user's state follows its formula."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mtorl.artifact.artifact import load
from mtorl.artifact.saving import save
from mtorl.network.ensemble import Ensemble
from mtorl.network.model import MTORL
from mtorl.network.predictor import predict
from mtorl.network.user_state import KEPT, StateDistance, fit_state_distance
from tests.mtorl.artifact.test_artifact import batch, network_config, trained_policy


def states(windows: int = 400, hidden: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    scale_H = np.array([3.0, 2.0, 1.0, 0.5, 0.01, 0.0])[:hidden]
    turn_HH = np.linalg.qr(rng.normal(size=(hidden, hidden)))[0]
    return rng.normal(size=(windows, hidden)) * scale_H @ turn_HH + 5.0


def test_the_distance_is_mahalanobis_over_the_root_of_dimensions() -> None:
    state_BH = states(hidden=4)
    distance = StateDistance.of(state_BH)
    assert distance is not None
    assert distance.whitening_HK.shape == (4, 4), "the share of variance requires all dimensions"
    centred_BH = state_BH - state_BH.mean(axis=0)
    inverse_HH = np.linalg.inv(np.cov(state_BH, rowvar=False, bias=True))
    mahalanobis_B = np.sqrt(np.einsum("bh,hk,bk->b", centred_BH, inverse_HH, centred_BH))
    found_B = distance(torch.from_numpy(state_BH).float()).numpy()
    np.testing.assert_allclose(found_B, mahalanobis_B / np.sqrt(4), rtol=1e-4)


def test_the_mean_square_is_1_and_constant_dimensions_are_left_out() -> None:
    state_BH = states()
    distance = StateDistance.of(state_BH)
    assert distance is not None
    assert distance.whitening_HK.shape == (6, 4)
    found_B = distance(torch.from_numpy(state_BH).float()).numpy()
    assert (found_B**2).mean() == pytest.approx(1.0, abs=1e-4)
    variance_H = np.linalg.eigvalsh(np.cov(state_BH, rowvar=False))[::-1]
    assert variance_H[:3].sum() < KEPT * variance_H.sum() < variance_H[:4].sum()


@pytest.mark.parametrize("rows", [1, 5])
def test_equal_states_have_no_distance(rows: int) -> None:
    assert StateDistance.of(np.ones((rows, 3))) is None


@pytest.mark.long
def test_artifacts_return_the_first_members_state_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, windows = trained_policy(), batch(9)
    torch.manual_seed(1)
    ensemble = Ensemble([MTORL(network_config(policy.encoder)) for _ in range(2)]).eval()
    without = save(tmp_path / "without", trained_policy(network=ensemble))
    fit_state_distance(ensemble, policy.encoder, batch(200))
    with_it = save(tmp_path / "with", trained_policy(network=ensemble))
    loaded = load(with_it.folder)
    heads, distance_B = loaded.predict(windows), loaded.forecast_with_state(windows)[1]
    assert distance_B is not None and distance_B.shape == (9,)
    x_BTD, length_B = (torch.from_numpy(part) for part in with_it.encoder.encode(windows))
    with torch.inference_mode():
        state_BH = ensemble.networks[0].last_state(x_BTD, length_B)
        np.testing.assert_allclose(ensemble.state_distance(state_BH).numpy(), distance_B, rtol=1e-4)  # type: ignore[misc]
        np.testing.assert_allclose(
            state_BH, ensemble.networks[0].trunk(x_BTD)[torch.arange(9), length_B - 1], rtol=1e-4, atol=1e-5
        )
    for one, other in zip(heads, without.predict(windows), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for one, other in zip(heads, predict(ensemble, with_it.encoder, windows), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("mtorl.window.on_demand.CHUNK", 4)
    np.testing.assert_allclose(with_it.forecast_with_state(windows)[1], distance_B, rtol=1e-4)  # type: ignore[arg-type]
