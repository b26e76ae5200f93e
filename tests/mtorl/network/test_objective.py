"""Tests that the terms of the loss equal their formulas."""

import numpy as np
import pytest
import torch

from mtorl.network.model import MTORL, MTORLConfig
from mtorl.network.objective import losses, preference_loss
from tests.mtorl.network.simulated_journeys import OUTCOMES, C, D, T, batch_of, every_step, journeys


@pytest.fixture
def model() -> MTORL:
    torch.manual_seed(0)
    return MTORL(MTORLConfig(inputs=D, channels=C, window=T, outcomes=OUTCOMES, hidden=8, heads=2)).eval()


def test_losses_match_their_formulas(model):
    x, targets, _, _ = journeys(20, 3)
    with torch.inference_mode():
        terms, log_prob = losses(model, batch_of(x, targets))
        logits, reward_logit, cost = (part.double().numpy() for part in every_step(model, torch.from_numpy(x)))
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


def test_a_step_without_a_target_is_visible_but_not_learned(model):
    x, targets, length, _ = journeys(20, 3)
    hole = np.zeros((20, T), dtype=bool)
    hole[:, 1] = length > 2  # inside the window
    assert hole.any()
    channel = np.where(hole, -1, targets["channel_BT"])
    holed = {**targets, "channel_BT": channel, "clone_BT": channel >= 0}
    noisy = {**holed, **{name: np.where(hole, 7, holed[name]) for name in ("reward_BT", "cost_BT")}}
    with torch.inference_mode():
        _, whole = losses(model, batch_of(x, targets))
        terms, log_prob = losses(model, batch_of(x, holed))
        noisy_terms, _ = losses(model, batch_of(x, noisy))
        earned = [
            preference_loss(log_prob, d.reward_BT, d.channel_BT >= 0) for d in (batch_of(x, holed), batch_of(x, noisy))
        ]
    assert (log_prob[torch.from_numpy(hole)] == 0).all()
    torch.testing.assert_close(log_prob, whole * torch.from_numpy(~hole))
    assert terms["action"].item() == pytest.approx(-(log_prob.sum() / (channel >= 0).sum()).item(), rel=1e-5)
    assert {name: term.item() for name, term in terms.items()} == {n: t.item() for n, t in noisy_terms.items()}
    assert earned[0].item() == earned[1].item()


def test_the_action_head_learns_nothing_from_own_decisions(model):
    """The policy's own decisions already prefer better channels, so imitation would count them twice."""
    x, targets, _, _ = journeys(50, 3)
    real = targets["channel_BT"] >= 0
    own = real & (np.arange(50)[:, None] % 2 == 0)
    mixed = batch_of(x, {**targets, "clone_BT": real & ~own})
    terms, log_prob = losses(model, mixed)
    of_log = batch_of(x[1::2], {name: column[1::2] for name, column in targets.items()})
    assert terms["action"].item() == pytest.approx(losses(model, of_log)[0]["action"].item(), rel=1e-5)
    assert terms["reward"].item() == losses(model, batch_of(x, targets))[0]["reward"].item()
    preferred = preference_loss(log_prob, mixed.reward_BT, mixed.clone_BT)
    (terms["action"] + preferred).backward()
    assert model.action.own.weight.grad.abs().sum() > 0
    model.zero_grad()
    none = batch_of(x, {**targets, "clone_BT": np.zeros_like(real)})
    terms, log_prob = losses(model, none)
    preferred = preference_loss(log_prob, none.reward_BT, none.clone_BT)
    assert terms["action"].item() == preferred.item() == 0.0
    (terms["action"] + preferred).backward()
    assert model.action.own.weight.grad.abs().sum() == 0


def test_reward_and_cost_learn_at_the_logged_channel_only(model):
    x, targets, _, _ = journeys(50, 3)
    targets["channel_BT"] = np.where(targets["channel_BT"] >= 0, 1, -1)  # the log only uses channel 1
    terms, _ = losses(model, batch_of(x, targets))
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
    assert (log_prob.grad[0] < 0).all()  # gradient descent raises the better window's log-probability
    assert (log_prob.grad[1] > 0).all()
    assert log_prob.grad.abs().max() <= 0.5


def test_preference_compares_means_and_not_lengths():
    real = torch.tensor([[True, True, True], [True, False, False]])
    rewards = torch.tensor([[0.2, 0.2, 0.2], [0.2, 0.0, 0.0]])
    assert preference_loss(torch.zeros(2, 3), rewards, real).item() == 0.0
