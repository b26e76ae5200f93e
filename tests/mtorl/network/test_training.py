import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtorl.network.messages import DIVERGED
from mtorl.network.model import MTORL
from mtorl.network.objective import losses
from mtorl.network.training import TrainConfig, TrainingDiverged, train
from mtorl.window.loader import TrainingWindows
from tests.messages import raises
from tests.mtorl.network.simulated_journeys import COST, LOGGED, SMALL, TINY, C, EncodedArrays, batch_of, fit, journeys


@pytest.fixture(scope="module")
def fitted():
    torch.set_num_threads(1)
    return fit(TrainConfig(epochs=12, batch_size=64, lr=0.01, hidden=16, device="cpu"), windows=1500)


def predictions(model: MTORL, seed: int = 2):
    x, _, length, gain_BTC = journeys(400, seed)
    with torch.inference_mode():
        heads = model(torch.from_numpy(x), torch.from_numpy(length))
    logits, reward, cost = (part.numpy() for part in heads)
    return logits, reward, cost, gain_BTC[np.arange(len(x)), length - 1]


def test_heads_learn_the_simulated_journeys(fitted):
    logits, reward, cost, gain = predictions(fitted.model)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probs.mean(0), LOGGED, atol=0.05)
    assert (reward[:, :2].argmax(1) == gain[:, :2].argmax(1)).mean() > 0.97
    assert np.abs(reward - gain).mean() < 0.12
    np.testing.assert_allclose(cost.mean(0), COST, rtol=0.15)


def test_history_is_json_and_its_losses_add_up(fitted):
    rows = fitted.history
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    config = TrainConfig()
    for row in rows:
        parts = row["val_action"] + config.mu * row["val_reward"] + config.nu * row["val_cost"]
        assert row["val_loss"] == pytest.approx(parts)
        assert row["train_loss"] > 0
        assert row["seconds"] > 0
    assert rows[-1]["val_reward"] < rows[0]["val_reward"]
    assert min(rows, key=lambda row: row["val_loss"])["epoch"] == fitted.best_epoch


def test_equal_seeds_give_equal_networks_without_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = fit(TINY, windows=100)
    assert torch.equal(torch.rand(1), expected)
    again = fit(TINY, windows=100)
    other = fit(replace(TINY, seed=1), windows=100)
    weights, same, different = (list(run.model.state_dict().values()) for run in (first, again, other))
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights, different, strict=True))


def test_stops_early_and_keeps_the_best_epoch():
    """The network soon memorises the sixty windows, and then the validation loss rises."""
    config = TrainConfig(epochs=60, batch_size=16, lr=0.02, hidden=32, dropout=0.0, patience=2, device="cpu")
    result = fit(config, windows=60)
    assert len(result.history) == result.best_epoch + config.patience < config.epochs
    val_x, val_targets, _, _ = journeys(200, 1)
    with torch.inference_mode():
        terms = losses(result.model, batch_of(val_x, val_targets))[0]
    assert terms["reward"].item() == pytest.approx(result.history[result.best_epoch - 1]["val_reward"], rel=1e-4)
    assert not result.model.training


def test_any_unit_of_cost_gives_the_same_network():
    x, targets, _, _ = journeys(200, 0)
    cents = {**targets, "cost_BT": targets["cost_BT"] * 100}
    parts = ([EncodedArrays(x, t)] for t in (targets, cents))
    euros_run, cents_run = (train(TrainingWindows(part, part, C), TINY) for part in parts)
    cost, cost_in_cents = predictions(euros_run.model)[2], predictions(cents_run.model)[2]
    np.testing.assert_allclose(cost_in_cents, 100 * cost, rtol=1e-2)


def test_free_exposures_can_be_trained_on():
    x, targets, _, _ = journeys(100, 0)
    free = {**targets, "cost_BT": np.zeros_like(targets["cost_BT"])}
    parts = [EncodedArrays(x, free)]
    result = train(TrainingWindows(parts, parts, C), TINY)
    assert (predictions(result.model)[2] >= 0).all()


def test_divergence_is_an_error_with_epoch_and_batch():
    x, targets, _, _ = journeys(100, 0)
    with raises(TrainingDiverged, DIVERGED, where="epoch 1, batch 1"):
        train(TrainingWindows([EncodedArrays(x * np.float32(3e38), targets)], [EncodedArrays(x, targets)], C), SMALL)


def test_a_split_without_windows_is_an_error():
    x, targets, _, _ = journeys(20, 0)
    empty = {name: column[:0] for name, column in targets.items()}
    with pytest.raises(ValueError, match="no validation windows"):
        train(TrainingWindows([EncodedArrays(x, targets)], [EncodedArrays(x[:0], empty)], C), SMALL)


def test_bfloat16_learns_as_much():
    full, half = (fit(replace(SMALL, epochs=4, precision=precision)) for precision in ("fp32", "bf16"))
    assert half.history != full.history
    assert half.history[-1]["val_loss"] == pytest.approx(full.history[-1]["val_loss"], rel=0.02)
    assert {value.dtype for value in half.model.state_dict().values()} == {torch.float32}
