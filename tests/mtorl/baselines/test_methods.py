"""Tests that each baseline's loss has the terms of its paper."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mtorl.baselines import bcq, cql, decision_transformer, iql
from mtorl.baselines.decision_transformer import Tiles, returns_to_go
from mtorl.baselines.learning import Step, Transitions
from mtorl.window.encoder import Encoder
from tests.mtorl.baselines.tiny_log import SPEC, journey, sticky_log, windows

# Two states and three channels; state 1 follows state 0 and is the last.
STATE = torch.eye(2)
STEP = Step(STATE, torch.tensor([0, 1]), torch.tensor([0.5, 1.0]), STATE.flip(0), torch.tensor([1.0, 0.0]))


def table(rows: list[list[float]]) -> torch.nn.Module:
    network = torch.nn.Linear(2, len(rows[0]), bias=False)
    network.weight.data = torch.tensor(rows).T
    return network


Q = [[1.0, 5.0, 2.0], [4.0, 3.0, 0.0]]
# The target network, a slowly updated copy of Q.
SLOW = [[9.0, 9.0, 9.0], [0.25, 7.0, 8.0]]


def test_cql_is_double_q_learning_and_a_conservative_term(monkeypatch: pytest.MonkeyPatch):
    # Double Q-learning: Q chooses channel 0 in the last state, and the slow copy gives this channel the value 0.25.
    gaps = np.array([1 - (0.5 + cql.GAMMA * 0.25), 3 - 1.0])
    term = np.mean([np.log(np.exp(Q[0]).sum()) - 1, np.log(np.exp(Q[1]).sum()) - 3])
    monkeypatch.setattr(cql, "ALPHA", 0.7)
    loss = cql.conservative_loss(table(Q), table(SLOW), STEP)
    assert loss.item() == pytest.approx(0.7 * term + 0.5 * (gaps**2).mean(), rel=1e-5)


def test_an_expectile_is_above_the_mean():
    value_B = torch.tensor([0.0, 0.0, 0.0, 1.0])
    at = torch.linspace(0, 1, 1001)
    best = {
        tau: at[torch.stack([iql.expectile_loss(value_B - v, tau) for v in at]).argmin()].item() for tau in (0.5, 0.9)
    }
    # The expectile loss is smallest at the v for which tau (1 - v) = 3 (1 - tau) v.
    assert best == pytest.approx({0.5: 0.25, 0.9: 0.9 / 1.2}, abs=2e-3)


def test_iql_uses_only_logged_actions():
    critics = iql.Critics(2, 3)
    critics.q.networks = torch.nn.ModuleList([table(Q), table(SLOW)])
    critics.v = table([[2.0], [3.0]])
    target = iql.TwinQ(2, 3)
    target.networks = torch.nn.ModuleList([table(SLOW), table([[0.5, 0.0, 0.0], [0.0, 9.0, 0.0]])])
    # The smaller of the two target networks' values of the logged action, in each state
    slow = np.array([0.5, 7.0])
    y = np.array([0.5 + iql.GAMMA * 3, 1.0])
    gap = slow - np.array([2.0, 3.0])
    expectile = np.mean([(1 - iql.EXPECTILE) * gap[0] ** 2, iql.EXPECTILE * gap[1] ** 2])
    squares = np.mean((np.array([1, 3]) - y) ** 2) + np.mean((np.array([9, 7]) - y) ** 2)
    loss = iql.critics_loss(critics, target, STEP)
    assert loss.item() == pytest.approx(expectile + squares, rel=1e-5)
    torch.autograd.backward(loss)
    # V's gradient must come only from the expectile loss.
    assert critics.v.weight.grad[0].tolist() == pytest.approx(
        [-(1 - iql.EXPECTILE) * gap[0], -iql.EXPECTILE * gap[1]], rel=1e-5
    )


def test_advantages_weigh_the_policy_up_to_a_bound(monkeypatch: pytest.MonkeyPatch):
    critics = iql.Critics(2, 3)
    critics.q.networks = torch.nn.ModuleList([table([[1.0, 0, 0], [0, 99.0, 0]])] * 2)
    critics.v = table([[2.0], [3.0]])
    monkeypatch.setattr(iql, "BETA", 2.0)
    weights = iql.advantage_weights(critics, Transitions(STATE, STEP.channel_B, STEP.reward_B, STEP.goes_on_B))
    assert weights.tolist() == pytest.approx([np.exp(-2.0), iql.LARGEST])


def test_bcq_looks_ahead_only_to_allowed_channels():
    # In state 1, imitation excludes channel 0, and Q prefers channel 1 among the others.
    imitation = table([[0.0, 0.0, 0.0], [-3.0, 1.0, 1.0]])
    loss = bcq.constrained_loss(table(Q), imitation, table(SLOW), STEP)
    gaps = np.array([1 - (0.5 + bcq.GAMMA * 7), 3 - 1.0])
    assert loss.item() == pytest.approx((abs(gaps) - 0.5).mean(), rel=1e-5)
    odds = torch.log(torch.tensor([[1.0, bcq.TAU * 1.01, bcq.TAU * 0.99]]))
    assert bcq.allowed(odds + 5).tolist() == [[True, True, False]]


def test_bcq_never_picks_a_channel_below_the_threshold(monkeypatch: pytest.MonkeyPatch):
    """Social has a tenth of the rows and all clicks."""
    random = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{i}", "channel": channel, "click": int(channel == "social")}
        for i in range(300)
        for channel in random.choice(SPEC.channels, size=4, p=[0.9, 0.1])
    ]
    train = windows(rows)
    encoder = Encoder.fit(train, SPEC)
    strict = bcq.fit(train, train, encoder, seed=0).predict(train)[0]
    assert (strict.argmax(1) == 0).mean() > 0.95
    rare = np.exp(strict[:, 1])[strict.argmax(1) == 0]
    np.testing.assert_allclose(np.quantile(rare, 0.5), bcq.EXPLORATION / 2)
    monkeypatch.setattr(bcq, "TAU", 0.01)
    assert (bcq.fit(train, train, encoder, seed=0).predict(train)[0].argmax(1) == 1).mean() > 0.95


def test_a_decision_transformer_follows_the_requested_return():
    random = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{i}", "channel": channel, "click": int(channel == "search")}
        for i in range(300)
        for channel in random.choice(SPEC.channels, size=4)
    ]
    train = windows(rows)
    fitted = decision_transformer.fit(train, train, Encoder.fit(train, SPEC), seed=0)
    last = windows(journey("u", "ssSo"))
    greedy, humble = (replace(fitted, target=target).predict(last)[0][3] for target in (1.0, 0.0))
    assert fitted.target >= 2 and greedy.argmax() == 0 and humble.argmax() == 1


def test_a_transformer_sees_no_future():
    batch = windows(sticky_log(users=20))
    encoder = Encoder.fit(batch, SPEC)
    data = Tiles.of(batch, encoder)
    network = decision_transformer.Transformer(data, encoder).eval()
    other = replace(data, x_BTD=data.x_BTD.clone(), return_BT=data.return_BT.clone())
    other.x_BTD[:, 2:], other.return_BT[:, 2:] = 1.0, -7.0
    one, two = (network(part.x_BTD, part.return_BT) for part in (data, other))
    assert torch.equal(one[:, :2], two[:, :2]) and not torch.equal(one[:, 2:], two[:, 2:])
    logits_NC, channel_N = network.logged(data, torch.tensor([1]))
    assert torch.equal(channel_N, data.channel_BT[1][data.channel_BT[1] >= 0])
    torch.testing.assert_close(logits_NC, one[1][: len(channel_N)])


def test_a_transformer_answers_at_the_last_real_step():
    batch = windows(sticky_log(users=20))
    encoder = Encoder.fit(batch, SPEC)
    data = Tiles.of(batch, encoder)
    network = decision_transformer.Transformer(data, encoder).eval()
    fitted = decision_transformer.DecisionTransformer(encoder, network, 1.0, np.zeros(2), np.zeros(2))
    x_BTD, return_BT = encoder.encode(batch)[0], returns_to_go(batch, encoder, fitted.target)
    expected = network(torch.from_numpy(x_BTD), torch.from_numpy(return_BT))[range(len(batch)), batch.length_B - 1]
    np.testing.assert_allclose(fitted.predict(batch)[0], expected.detach().numpy(), rtol=1e-4, atol=1e-5)
