"""Tests that the network sees no later step and ignores padding."""

from functools import partial

import pytest
import torch

from mtorl.network.model import MTORL, ChannelMemory, MTORLConfig
from tests.mtorl.network.simulated_journeys import every_step

B, T, D, C = 5, 20, 31, 4
OUTCOMES = 3


@pytest.fixture
def network() -> MTORL:
    torch.manual_seed(0)
    return MTORL(MTORLConfig(inputs=D, channels=C, window=T, outcomes=OUTCOMES, cost_scale=0.3)).eval()


def windows(seed: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    x_BTD = torch.randn(B, T, D, generator=random)
    # Each step has exactly one channel, or "start".
    x_BTD[..., : C + 1] = torch.eye(C + 1)[torch.randint(C + 1, (B, T), generator=random)]
    return x_BTD


@pytest.mark.parametrize("k", [0, 7, 18])
def test_no_output_sees_a_later_input(network, k):
    x, changed = windows(), windows()
    changed[:, k + 1 :] = windows(seed=2)[:, k + 1 :]
    with torch.inference_mode():
        for before, after in zip(every_step(network, x), every_step(network, changed), strict=True):
            assert torch.equal(before[:, : k + 1], after[:, : k + 1])
            assert not torch.allclose(before[:, k + 1 :], after[:, k + 1 :])


@pytest.mark.parametrize("k", [0, 10])
def test_every_later_output_can_see_an_earlier_input(network, k):
    x = windows().requires_grad_()
    every_step(network, x)[0][:, T - 1].sum().backward()
    assert (x.grad[:, k].abs().sum(dim=1) > 0).all()


def test_right_padding_changes_nothing(network):
    x, noisy = windows(), windows()
    length = torch.tensor([1, 3, 10, 19, 20])
    for row, n in enumerate(length):
        x[row, n:] = 0
        noisy[row, n:] = 1e6
    with torch.inference_mode():
        for padded, ragged in zip(network(x, length), network(noisy, length), strict=True):
            torch.testing.assert_close(padded, ragged, rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"attention": False}, {"convolutions": False}, {"stored": 2}])
def test_a_possible_next_token_equals_one_more_step(changes):
    torch.manual_seed(0)
    network = MTORL(MTORLConfig(inputs=D, channels=C, window=T, outcomes=OUTCOMES, **changes)).eval()
    x, following = windows(), windows(seed=2)[:, :3]
    length = torch.tensor([[0, 1, 2], [3, 3, 4], [9, 10, 11], [17, 18, 19], [19, 19, 19]])
    with torch.inference_mode():
        state, memory = network.after(x, length, following)
        for row, place in ((row, place) for row in range(B) for place in range(3)):
            n = int(length[row, place])
            longer, steps = torch.cat([x[row, :n], following[row, place, None]])[None], torch.tensor([n + 1])
            close = partial(torch.testing.assert_close, rtol=0, atol=2e-6)
            close(network.last_state(longer, steps)[0], state[row, place])
            close(network.memory.at(longer, steps - 1)[0], memory[row, place])


@pytest.mark.parametrize("changes", [{}, {"attention": False}, {"convolutions": False}])
def test_forward_returns_the_last_real_step(changes):
    torch.manual_seed(0)
    network = MTORL(MTORLConfig(inputs=D, channels=C, window=T, outcomes=OUTCOMES, **changes)).eval()
    x, length = windows(), torch.tensor([1, 3, 10, 19, 20])
    with torch.inference_mode():
        logits, reward, cost = network(x, length)
        all_logits, all_reward_logit, all_cost = every_step(network, x)
    rows = torch.arange(B)
    torch.testing.assert_close(logits, all_logits[rows, length - 1])
    torch.testing.assert_close(reward, all_reward_logit[rows, length - 1].sigmoid())
    torch.testing.assert_close(cost, all_cost[rows, length - 1])


def test_forward_logged_returns_real_steps_at_logged_channels(network):
    x, channel = windows(), torch.randint(-1, C, (B, T), generator=torch.Generator().manual_seed(3))
    real = channel >= 0
    with torch.inference_mode():
        logits, reward_logit, cost = network.forward_logged(x, channel)
        all_logits, all_reward_logit, all_cost = every_step(network, x)
    logged = channel[real].unsqueeze(1)
    torch.testing.assert_close(logits, all_logits[real])
    torch.testing.assert_close(reward_logit, all_reward_logit[real].gather(1, logged).squeeze(1))
    torch.testing.assert_close(cost, all_cost[real].gather(1, logged).squeeze(1))


def test_a_row_does_not_depend_on_other_rows_of_its_batch(network):
    x, length = windows(), torch.tensor([20, 3, 10, 19, 1])
    with torch.inference_mode():
        together = network(x, length)
        alone = [network(x[i : i + 1], length[i : i + 1]) for i in range(B)]
    for part in range(3):
        torch.testing.assert_close(torch.cat([row[part] for row in alone]), together[part], rtol=0, atol=1e-5)


def test_inference_is_deterministic_and_training_drops_out(network):
    x, length = windows(), torch.full((B,), T)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(network(x, length), network(x, length), strict=True))
        network.train()
        assert not torch.equal(network(x, length)[0], network(x, length)[0])


def test_ranges_and_size(network):
    with torch.inference_mode():
        logits, reward, cost = network(1000 * windows(), torch.full((B,), T))
    assert logits.shape == reward.shape == cost.shape == (B, C)
    assert ((reward >= 0) & (reward <= 1)).all()
    assert (cost >= 0).all()
    assert sum(p.numel() for p in network.parameters()) < 150_000


def test_order_of_the_past_matters(network):
    x = windows()
    swapped = x.clone()
    swapped[:, [2, 3]] = x[:, [3, 2]]
    with torch.inference_mode():
        length = torch.full((B,), T)
        assert not torch.allclose(network(x, length)[0], network(swapped, length)[0], atol=1e-5)


def test_the_memory_contains_fading_sums_per_channel():
    memory = ChannelMemory(channels=2, window=4, outcomes=1, rates=1)
    with torch.no_grad():
        # Each step keeps half of the memory.
        memory.logit_K.zero_()
    # Columns: search, social, start, reward, outcome. Steps: start, search, search, social.
    x = torch.tensor([[[0, 0, 1, 0, 0], [1, 0, 0, 1, 2], [1, 0, 0, 0, 4], [0, 1, 0, 1, 8]]], dtype=torch.float32)
    with torch.inference_mode():
        remembered = memory(x)
    assert remembered.shape == (1, 4, 2, memory.width)
    search = torch.tensor([0.25 + 0.5, 0.25 * 1 + 0.5 * 0, 0.25 * 2 + 0.5 * 4])  # uses, reward, outcome after step 3
    total = search + torch.tensor([1.0, 1.0, 8.0])
    expected = torch.cat([torch.asinh(search), search[1:] / 1.75, torch.asinh(total), total[1:] / 2.75])
    torch.testing.assert_close(remembered[0, 3, 0], expected)
    assert (remembered[0, 0] == 0).all()


def test_decoders_share_no_weights(network):
    heads = [set(map(id, head.parameters())) for head in (network.action, network.reward, network.cost)]
    assert not (heads[0] & heads[1] or heads[0] & heads[2] or heads[1] & heads[2])
