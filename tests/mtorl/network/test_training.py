"""Training: it learns, it repeats, it stops, it refuses; and the loss is what its description says."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mtorl.network.checkpoint import CheckpointError
from mtorl.network.model import MTORL, MTORLConfig
from mtorl.network.objective import losses, preference_loss
from mtorl.network.parallel import Group
from mtorl.network.training import TrainConfig, TrainingDiverged, _Loop, _Store, own_file, train
from mtorl.policy.decision import PolicyParams, action_probabilities, utility_scale
from mtorl.window.loader import Batch
from tests.mtorl.arrays import Arrays

T, C = 6, 3
OUTCOMES = 0
D = C + 2 + 2  # one-hot of the previous channel and "start", previous reward, two context columns
COST = np.array([0.2, 0.5, 1.0])
SMALL = TrainConfig(epochs=6, batch_size=64, lr=0.01, hidden=16, device="cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def world(windows: int, seed: int):
    """Journeys whose gain depends on channel and context: channel 0 pays in context 0, channel 1 in context 1."""
    random = np.random.default_rng(seed)
    length = random.integers(1, T + 1, size=windows)
    real = np.arange(T) < length[:, None]
    context = random.integers(2, size=(windows, T))
    channel = (random.random((windows, T))[..., None] > np.array([0.2, 0.5, 1.0])).sum(-1)
    gain_BTC = np.where(np.arange(C) == context[..., None], 0.7, 0.1)
    reward = (random.random((windows, T)) < np.take_along_axis(gain_BTC, channel[..., None], 2)[..., 0]).astype(float)
    cost = COST[channel] * random.uniform(0.5, 1.5, size=(windows, T))
    x = np.zeros((windows, T, D), dtype=np.float32)
    x[:, 0, C] = 1
    x[:, 1:, :C] = np.eye(C)[channel[:, :-1]]
    x[:, 1:, C + 1] = reward[:, :-1]
    x[..., C + 2 :] = np.eye(2)[context]
    targets = {"channel_BT": np.where(real, channel, -1), "reward_BT": reward * real, "cost_BT": cost * real}
    return x * real[..., None], targets, length, gain_BTC


def fit(config: TrainConfig = SMALL, windows: int = 600, on_epoch=None, **more):
    x, targets, _, _ = world(windows, 0)
    val_x, val_targets, _, _ = world(200, 1)
    return train([Arrays(x, targets)], [Arrays(val_x, val_targets)], config, on_epoch, channels=C, **more)


@pytest.fixture(scope="module")
def fitted():
    torch.set_num_threads(1)
    return fit(TrainConfig(epochs=12, batch_size=64, lr=0.01, hidden=16, device="cpu"), windows=1500)


def predictions(model: MTORL, seed: int = 2):
    x, _, length, gain_BTC = world(400, seed)
    with torch.inference_mode():
        heads = model(torch.from_numpy(x), torch.from_numpy(length))
    logits, reward, cost = (part.numpy() for part in heads)
    return logits, reward, cost, gain_BTC[np.arange(len(x)), length - 1]


def test_heads_learn_what_there_is_to_learn(fitted):
    logits, reward, cost, truth = predictions(fitted.model)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probs.mean(0), [0.2, 0.3, 0.5], atol=0.05)
    assert (reward[:, :2].argmax(1) == truth[:, :2].argmax(1)).mean() > 0.97
    assert np.abs(reward - truth).mean() < 0.12
    np.testing.assert_allclose(cost.mean(0), COST, rtol=0.15)


def test_the_policy_beats_the_one_that_wrote_the_log(fitted):
    logits, reward, cost, truth = predictions(fitted.model)

    def value(beta: float) -> float:
        params = PolicyParams(beta, exploration=0.05, utility_scale=utility_scale(reward, cost))
        return float((action_probabilities(logits, reward, cost, params)[0] * truth).sum(1).mean())

    logged = float(np.mean(truth @ [0.2, 0.3, 0.5]))
    assert value(0.0) == pytest.approx(logged, abs=0.03)
    assert value(1.0) > 1.4 * logged
    assert value(3.0) > value(1.0)


def test_history_is_json_and_its_losses_add_up(fitted):
    rows = fitted.history
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    config = TrainConfig()
    for row in rows:
        parts = row["val_action"] + config.mu * row["val_reward"] + config.nu * row["val_cost"]
        assert row["val_loss"] == pytest.approx(parts)
        assert row["train_loss"] > 0
        assert row["seconds"] > 0
    assert rows[-1]["val_reward"] < rows[0]["val_reward"]
    assert min(rows, key=lambda row: row["val_loss"])["epoch"] == fitted.best_epoch


def test_same_seed_same_network_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = fit(TrainConfig(epochs=2, batch_size=64, hidden=8, heads=2, device="cpu"), windows=100)
    assert torch.equal(torch.rand(1), expected)
    again = fit(TrainConfig(epochs=2, batch_size=64, hidden=8, heads=2, device="cpu"), windows=100)
    other = fit(TrainConfig(epochs=2, batch_size=64, hidden=8, heads=2, device="cpu", seed=1), windows=100)
    weights, same, different = (list(run.model.state_dict().values()) for run in (first, again, other))
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights, different, strict=True))


def test_stops_early_and_keeps_the_best_epoch():
    """Sixty windows are soon known by heart; validation loss then rises."""
    config = TrainConfig(epochs=60, batch_size=16, lr=0.02, hidden=32, dropout=0.0, patience=2, device="cpu")
    result = fit(config, windows=60)
    assert len(result.history) == result.best_epoch + config.patience < config.epochs
    val_x, val_targets, _, _ = world(200, 1)
    with torch.inference_mode():
        found = losses(result.model, data(val_x, val_targets))[0]
    assert found["reward"].item() == pytest.approx(result.history[result.best_epoch - 1]["val_reward"], rel=1e-4)
    assert not result.model.training


def test_progress_is_reported_every_epoch():
    seen: list[dict[str, float]] = []
    result = fit(
        TrainConfig(epochs=2, batch_size=64, hidden=8, heads=2, device="cpu"), windows=100, on_epoch=seen.append
    )
    assert seen == result.history


def data(x: np.ndarray, targets: dict[str, np.ndarray]) -> Batch:
    return Arrays(x, targets).__getitems__(range(len(x)))


@pytest.fixture
def model() -> MTORL:
    torch.manual_seed(0)
    return MTORL(MTORLConfig(inputs=D, channels=C, window=T, outcomes=OUTCOMES, hidden=8, heads=2)).eval()


def test_losses_match_their_formulas(model):
    x, targets, _, _ = world(20, 3)
    with torch.inference_mode():
        terms, log_prob = losses(model, data(x, targets))
        logits, reward_logit, cost = (part.double().numpy() for part in model.forward_all(torch.from_numpy(x)))
    action, reward, deviance = [], [], []
    for b, t in zip(*np.nonzero(targets["channel_BT"] >= 0), strict=True):
        c = targets["channel_BT"][b, t]
        action.append(np.log(np.exp(logits[b, t]).sum()) - logits[b, t, c])
        p, r = 1 / (1 + np.exp(-reward_logit[b, t, c])), targets["reward_BT"][b, t]
        reward.append(-r * np.log(p) - (1 - r) * np.log(1 - p))
        m, w = cost[b, t, c], targets["cost_BT"][b, t]
        deviance.append(m - w + w * np.log(w / m))
        assert log_prob[b, t].item() == pytest.approx(-action[-1], rel=1e-4)
    assert terms["action"].item() == pytest.approx(np.mean(action), rel=1e-4)
    assert terms["reward"].item() == pytest.approx(np.mean(reward), rel=1e-4)
    assert terms["cost"].item() == pytest.approx(np.mean(deviance), rel=1e-4)


def test_padding_takes_no_part(model):
    x, targets, length, _ = world(20, 3)
    padding = np.arange(T) >= length[:, None]
    noisy = {name: np.where(padding & (name != "channel_BT"), 7, column) for name, column in targets.items()}
    noisy_x = np.where(padding[..., None], np.float32(9), x)
    with torch.inference_mode():
        clean, log_prob = losses(model, data(x, targets))
        dirty, dirty_log_prob = losses(model, data(noisy_x, noisy))
    for name in clean:
        assert dirty[name].item() == pytest.approx(clean[name].item(), rel=1e-5)
    torch.testing.assert_close(log_prob, dirty_log_prob)
    assert (log_prob[torch.from_numpy(padding)] == 0).all()


def test_a_step_without_a_target_is_seen_by_later_ones_and_teaches_nothing(model):
    x, targets, length, _ = world(20, 3)
    hole = np.zeros((20, T), dtype=bool)
    hole[:, 1] = length > 2  # in mid-window
    assert hole.any()
    channel = np.where(hole, -1, targets["channel_BT"])
    holed = {"channel_BT": channel, "reward_BT": targets["reward_BT"], "cost_BT": targets["cost_BT"]}
    noisy = {**holed, **{name: np.where(hole, 7, holed[name]) for name in ("reward_BT", "cost_BT")}}
    with torch.inference_mode():
        _, whole = losses(model, data(x, targets))
        terms, log_prob = losses(model, data(x, holed))
        noisy_terms, _ = losses(model, data(x, noisy))
        earned = [preference_loss(log_prob, d.reward_BT, d.channel_BT >= 0) for d in (data(x, holed), data(x, noisy))]
    assert (log_prob[torch.from_numpy(hole)] == 0).all()
    torch.testing.assert_close(log_prob, whole * torch.from_numpy(~hole))
    assert terms["action"].item() == pytest.approx(-(log_prob.sum() / (channel >= 0).sum()).item(), rel=1e-5)
    assert {name: term.item() for name, term in terms.items()} == {n: t.item() for n, t in noisy_terms.items()}
    assert earned[0].item() == earned[1].item()


def test_reward_and_cost_learn_at_the_logged_channel_only(model):
    x, targets, _, _ = world(50, 3)
    targets["channel_BT"] = np.where(targets["channel_BT"] >= 0, 1, -1)  # a log that only ever used channel 1
    terms, _ = losses(model, data(x, targets))
    (terms["reward"] + terms["cost"]).backward()
    for head in (model.reward, model.cost):
        touched = head.own.bias.grad != 0
        assert touched.tolist() == [False, True, False]


def test_preference_pulls_towards_the_better_journey():
    log_prob = torch.log(torch.tensor([[0.5, 0.5], [0.5, 0.5]])).requires_grad_()
    real = torch.ones(2, 2, dtype=torch.bool)
    loss = preference_loss(log_prob, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), real)
    assert loss.item() == pytest.approx(np.log(2))
    loss.backward()
    assert (log_prob.grad[0] < 0).all()  # descending raises the better window's log-probability
    assert (log_prob.grad[1] > 0).all()
    assert log_prob.grad.abs().max() <= 0.5


def test_preference_compares_means_and_not_lengths():
    real = torch.tensor([[True, True, True], [True, False, False]])
    rewards = torch.tensor([[0.2, 0.2, 0.2], [0.2, 0.0, 0.0]])
    assert preference_loss(torch.zeros(2, 3), rewards, real).item() == 0.0


def test_any_unit_of_cost_gives_the_same_network():
    x, targets, _, _ = world(200, 0)
    cents = {**targets, "cost_BT": targets["cost_BT"] * 100}
    config = TrainConfig(epochs=2, batch_size=64, hidden=8, heads=2, device="cpu")
    euros_run, cents_run = (train([Arrays(x, t)], [Arrays(x, t)], config, channels=C) for t in (targets, cents))
    cost, cost_in_cents = predictions(euros_run.model)[2], predictions(cents_run.model)[2]
    np.testing.assert_allclose(cost_in_cents, 100 * cost, rtol=1e-2)


def test_free_exposures_are_fine():
    x, targets, _, _ = world(100, 0)
    free = {**targets, "cost_BT": np.zeros_like(targets["cost_BT"])}
    parts = [Arrays(x, free)]
    result = train(parts, parts, TrainConfig(epochs=3, batch_size=32, hidden=8, heads=2, device="cpu"), channels=C)
    assert (predictions(result.model)[2] >= 0).all()


def test_divergence_is_an_error_that_says_where():
    x, targets, _, _ = world(100, 0)
    with pytest.raises(TrainingDiverged, match=r"epoch 1, batch 1: .* is (nan|inf)"):
        train([Arrays(x * np.float32(3e38), targets)], [Arrays(x, targets)], SMALL, channels=C)


def test_no_windows_is_an_error_that_says_which():
    x, targets, _, _ = world(20, 0)
    empty = {name: column[:0] for name, column in targets.items()}
    with pytest.raises(ValueError, match="no validation windows"):
        train([Arrays(x, targets)], [Arrays(x[:0], empty)], SMALL, channels=C)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("lr", 0.0), ("mu", -1.0), ("lam", float("nan")), ("patience", 0), ("precision", "fp8")],
)
def test_config_names_the_field_at_fault(field, value):
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})


# ---- going on after a kill, and on several processes

WORKER = """
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from tests.mtorl.arrays import Arrays
from tests.mtorl.network.test_training import C, RESUMED, world
from mtorl.network import checkpoint
from mtorl.network.training import train

saves, limit, save = 0, int(sys.argv[3]), checkpoint.save

def saved(*args):
    global saves
    save(*args)
    saves += 1
    if saves == limit:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save = saved
parts = [Arrays(*world(150, seed)[:2]) for seed in (0, 1)]
result = train(parts, [Arrays(*world(60, 2)[:2])], RESUMED, channels=C, resume=Path(sys.argv[2]))
torch.save({"weights": result.model.state_dict(), "losses": [r["train_loss"] for r in result.history]}, sys.argv[4])
"""
RESUMED = TrainConfig(epochs=3, batch_size=32, accumulate=2, hidden=8, heads=2, checkpoint_batches=4, device="cpu")


def _worker(folder: Path, kill_after: int, name: str) -> int:
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", WORKER, root, str(folder / "checkpoint"), str(kill_after), str(folder / name)]
    return subprocess.run(command, cwd=root, check=False).returncode


@pytest.mark.parametrize("kills", [[1], [2, 3], [4]])
def test_a_training_that_was_killed_ends_where_one_that_was_not_does(tmp_path, kills):
    for kill in kills:  # inside an epoch and between two, before and after the first part
        assert _worker(tmp_path, kill, "none") == -9
        assert (tmp_path / "checkpoint").exists()
    assert _worker(tmp_path, 0, "resumed") == 0
    parts = [Arrays(*world(150, seed)[:2]) for seed in (0, 1)]
    whole = train(parts, [Arrays(*world(60, 2)[:2])], RESUMED, channels=C)
    found = torch.load(tmp_path / "resumed", weights_only=True)
    assert found["losses"] == [row["train_loss"] for row in whole.history]
    assert all(torch.equal(found["weights"][name], value) for name, value in whole.model.state_dict().items())


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path, small = tmp_path / "checkpoint", {"windows": 60, "resume": tmp_path / "checkpoint"}
    config = TrainConfig(epochs=2, batch_size=64, hidden=8, heads=2, device="cpu")

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, on_epoch=stop, identity={"data": "a"}, **small)
    with pytest.raises(CheckpointError, match=r"checkpoint: belongs to another training; data, lr differ"):
        fit(replace(config, lr=0.1), identity={"data": "b"}, **small)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"cannot be read .* delete it to start anew"):
        fit(config, identity={"data": "a"}, **small)
    path.unlink()
    assert len(fit(config, identity={"data": "a"}, **small).history) == 2


@pytest.mark.parametrize("windows", [64, 48])  # a full group of four batches, and the last one of an epoch, of three
def test_several_small_batches_make_one_step(monkeypatch, windows):
    """Adam forgets how long a gradient is, so it is looked at before the step."""
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def seen(parameters, most):
        norms.append(clip(parameters, 1e9).item())
        return torch.tensor(norms[-1])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", seen)
    config = replace(SMALL, epochs=1, dropout=0.0, lam=0.0)
    for size, accumulate in ((windows, 1), (16, 4)):
        fit(replace(config, batch_size=size, accumulate=accumulate), windows=windows)
    one, several = norms
    # The mean of means over steps is not quite the mean over all steps.
    assert several == pytest.approx(one, rel=0.1)


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    config = replace(SMALL, epochs=2)
    monkeypatch.setattr("mtorl.network.checkpoint.os.replace", full)
    found = fit(config, windows=100, resume=tmp_path / "checkpoint")
    assert len(found.history) == 2 and "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())  # nothing half is left


DISTRIBUTED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from tests.mtorl.arrays import Arrays
from tests.mtorl.network.test_training import C, world
from mtorl.network.parallel import joined
from mtorl.network.training import TrainConfig, train

with joined() as group:
    config = TrainConfig(epochs=3, batch_size=32, lr=0.01, hidden=16, device="cpu")
    parts = [Arrays(*world(300, seed)[:2]) for seed in (0, 1)]
    resume = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    result = train(parts, [Arrays(*world(101, 2)[:2])], config, channels=C, group=group, resume=resume)
    found = {"weights": result.model.state_dict(), "history": result.history}
    torch.save(found, f"{sys.argv[2]}/{group.rank}-of-{group.size}")
"""


def test_two_processes_train_one_network(tmp_path):
    root = str(Path(__file__).parents[3])
    (tmp_path / "train.py").write_text(DISTRIBUTED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, str(tmp_path / "train.py"), root, str(tmp_path)], cwd=root, check=True)
    subprocess.run([sys.executable, str(tmp_path / "train.py"), root, str(tmp_path)], cwd=root, check=True)
    first, second, alone = (torch.load(tmp_path / name, weights_only=True) for name in ("0-of-2", "1-of-2", "0-of-1"))
    assert all(torch.equal(first["weights"][name], value) for name, value in second["weights"].items())
    for rows in zip(first["history"], second["history"], strict=True):
        assert all(rows[0][name] == rows[1][name] for name in rows[0] if name != "seconds")
    # Other batches than a process alone would take, yet the same lesson.
    best, best_alone = (min(row["val_loss"] for row in run["history"]) for run in (first, alone))
    assert best < alone["history"][0]["val_loss"] and best == pytest.approx(best_alone, rel=0.1)


def test_processes_that_stopped_at_different_places_do_not_go_on(tmp_path):
    root = str(Path(__file__).parents[3])
    (tmp_path / "train.py").write_text(DISTRIBUTED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launch += [str(tmp_path / "train.py"), root, str(tmp_path), str(tmp_path / "checkpoint")]
    subprocess.run(launch, cwd=root, check=True)
    weights = torch.load(tmp_path / "0-of-2", weights_only=True)["weights"]
    subprocess.run(launch, cwd=root, check=True)  # both have finished: nothing is left to do
    again = torch.load(tmp_path / "0-of-2", weights_only=True)["weights"]
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    own_file(tmp_path / "checkpoint", 1).unlink()  # one was killed before it could save
    found = subprocess.run(launch, cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode != 0 and "processes stopped at different places; delete the files" in found.stderr


def test_too_few_windows_for_the_processes_is_said(monkeypatch):
    """One of two processes; the other one is not needed to see that there is nothing to do."""
    monkeypatch.setattr(Group, "total", lambda self, values: values)
    config = TrainConfig(epochs=1, batch_size=64, hidden=8, heads=2, device="cpu")
    parts = [Arrays(*world(50, 0)[:2])]
    loop = _Loop(parts, parts, config, C, torch.device("cpu"), Group())
    loop.group = Group(0, 2)
    loop.train_epoch(_Store(None, {}, Group()))
    with pytest.raises(ValueError, match="no shard has a batch for each of the 2 processes; lower batch_size"):
        loop.close_epoch()


def test_bfloat16_learns_as_much():
    full, half = (
        fit(TrainConfig(epochs=4, batch_size=64, lr=0.01, hidden=16, device="cpu", precision=precision))
        for precision in ("fp32", "bf16")
    )
    assert half.history != full.history
    assert half.history[-1]["val_loss"] == pytest.approx(full.history[-1]["val_loss"], rel=0.02)
    assert {value.dtype for value in half.model.state_dict().values()} == {torch.float32}
