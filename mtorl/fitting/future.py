"""Fits the value of the future by simulating later opportunities, if the network's predictions are good enough.

    z = foresight(ensemble, encoder, val, seed)               # on validation users
    if z > CLEAR: ensemble.future = fit_future(ensemble, encoder, train_windows, price, seed)

The method is fitted Q iteration (Ernst et al. 2005, JMLR 6) on a sample of the training windows. For each window, the
network predicts the next opportunity after each possible action and outcome. These are the branches of the window
(`mtorl.window.branches`): no exposure, and for each channel, an exposure without a gain and an exposure with a gain.
Let d be the discount for the pause until the next opportunity, and p the probability of a gain. The price is fixed, and
level and added are 0 at first. Each iteration computes:

    later(branch) = level + max(0, max_c gain_c - price cost_c + added_c)   at the next opportunity
    level         = d later(no exposure)
    added_c       = d (p later(c, gain) + (1 - p) later(c, no gain) - later(no exposure))

`later`, `level` and `added` each consist of a gain and a cost. After `STEPS` iterations, the values include the next
`STEPS` opportunities. The weights of the network do not change. So the network runs only once for each branch, and each
iteration only fits the head that predicts `level` and `added`. All branches of a window share the states of the
window's tokens (`MTORL.after`).

Shapes: B windows, H state, C channels, K = 2 C + 1 branches, M = B K, 2 gain and cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mtorl.network.ensemble import Ensemble
from mtorl.network.future_value import DecoderInputs, FutureValue
from mtorl.network.parallel import one_thread
from mtorl.policy.decision import LEAST_COST, Forecast, expected_utility
from mtorl.window.branches import branches
from mtorl.window.encoder import Encoder, labels
from mtorl.window.on_demand import Windows
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch

STEPS = 3  # number of later opportunities that are simulated
HALF_LIFE_DAYS = 14.0  # pause after which a gain or cost counts half
CLEAR = 2.33  # smallest `foresight`, in standard errors, for the use of future values
# largest number of tokens in the sampled windows and their branches
_TOKENS = 350_000
_AT_ONCE = 1024  # windows per batch, to limit memory
_EPOCHS, _BATCH, _LR = 10, 1024, 6e-3


class Answers(NamedTuple):
    """The predictions of an ensemble for B states, with the inputs of its decoders."""

    inputs: DecoderInputs
    logits_BC: Tensor
    gain_BC: Tensor
    cost_BC: Tensor


def fit_future(ensemble: Ensemble, encoder: Encoder, windows: Windows, price: float, seed: int) -> FutureValue:
    """Fit the head that predicts the value of later opportunities. The weights of the ensemble do not change.

    Args:
        windows: Windows of training users, of which a random sample is used.
        price: Price that the decision rule applies at the simulated opportunities.
    """
    random = np.random.default_rng(seed)
    rows = random.permutation(len(windows))[: 2 * _most_windows(encoder)]
    drawn = windows.take(np.sort(rows))
    follows_B = np.isfinite(drawn.time["recency_hours"][np.cumsum(drawn.length_B) - 1])
    if not follows_B.any():
        raise ValueError("no user has two touchpoints")
    now = drawn.take(np.arange(0, len(drawn), 2))
    next_one = drawn.take(random.choice(np.flatnonzero(follows_B), len(now)))
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        future = FutureValue(ensemble.networks)
        hit_BC, after, answers = _look_ahead(ensemble, encoder, now, next_one)
        pause_B = next_one.time["recency_hours"][np.cumsum(next_one.length_B) - 1]
        discount_B11 = torch.from_numpy(0.5 ** (pause_B / 24 / HALF_LIFE_DAYS)).float().view(-1, 1, 1)
        for step in range(STEPS):
            later_BK2 = discount_B11 * _later(after, future if step else None, price).view(len(now), -1, 2)
            added_BC2 = _by_channel(later_BK2, hit_BC[..., None]) - later_BK2[:, :1]
            _fit(future, answers.inputs, later_BK2[:, 0], added_BC2)
    return future.eval()


def foresight(ensemble: Ensemble, encoder: Encoder, table: WindowTable, seed: int) -> float:
    """Measure how well the network predicts the effect of a channel on the user's next gain, in standard errors.

    The result is 0 if propensities are estimated, because users' tastes may then affect both channel and next gain.
    """
    if table.spec.propensity == "markov":
        return 0.0
    windows = table.on_demand("val", targets=True)
    users = table.rows.loc[table.is_in("val"), "user_id"].to_numpy()
    first = np.flatnonzero(users[1:] == users[:-1])
    chosen = np.sort(np.random.default_rng(seed).permutation(first)[: _most_windows(encoder)])
    if not len(chosen):
        return 0.0
    now, following = windows.take(chosen), windows.take(chosen + 1)
    follows_B = np.isfinite(following.time["recency_hours"][np.cumsum(following.length_B) - 1])
    # Leave out decisions of our own policies: they chose channels by the user's tastes, which also affect the next
    # gain.
    kept = np.flatnonzero(follows_B & ~labels(now, encoder).collected_B)
    if not len(kept):
        return 0.0
    now, following = now.take(kept), following.take(kept)
    was, happened = labels(now, encoder), labels(following, encoder)
    hit_BC, after, answers = _look_ahead(ensemble, encoder, now, following)
    at = torch.from_numpy(happened.channel_B)
    gain_BK = after.gain_BC.view(len(now), -1, len(encoder.channels))[torch.arange(len(now)), :, at]
    by_channel_BC = _by_channel(gain_BK, hit_BC).double()
    drawn_B = (answers.logits_BC.softmax(-1) * by_channel_BC).sum(-1).numpy()
    known_B = by_channel_BC.numpy()[np.arange(len(now)), was.channel_B]
    gain_B = encoder.unreward(happened.reward_B, happened.cost_B)
    _, user_B = np.unique(users[chosen[kept]], return_inverse=True)
    agreement_U = np.bincount(user_B, (known_B - drawn_B) * (gain_B - drawn_B))
    spread = float(np.sqrt((agreement_U**2).sum()))
    return float(agreement_U.sum()) / spread if spread > 0 else 0.0


def _most_windows(encoder: Encoder) -> int:
    # A window and its 2 C + 1 branches need this many tokens, because the branches share the tokens of the window.
    return max(1, _TOKENS // (encoder.window + 2 * len(encoder.channels) + 1))


def _answers(ensemble: Ensemble, encoder: Encoder, inputs: DecoderInputs) -> Answers:
    logits_BC, reward_BC, cost_BC = ensemble.heads(inputs)
    gain_BC = torch.from_numpy(np.maximum(encoder.unreward(reward_BC.numpy(), cost_BC.numpy()), 0.0)).float()
    return Answers(inputs, logits_BC, gain_BC, cost_BC)


def _joined(parts: Sequence[Answers]) -> Answers:
    members = zip(*(part.inputs for part in parts), strict=True)
    inputs = [(torch.cat([h for h, _ in own]), torch.cat([m for _, m in own])) for own in members]
    return Answers(inputs, *map(torch.cat, zip(*(part[1:] for part in parts), strict=True)))


@torch.inference_mode()
def _look_ahead(
    ensemble: Ensemble, encoder: Encoder, now: WindowBatch, next_one: WindowBatch
) -> tuple[Tensor, Answers, Answers]:
    """Return the probability (B, C) that an exposure has a gain, and the predictions for all branches and for `now`."""
    gain_N = encoder.previous_gain(now)
    won_N = (gain_N > 0) & (now.prev_channel_N < len(encoder.channels))
    hit = {name: float(values_N[won_N].mean()) for name, values_N in now.prev_outcomes.items()} if won_N.any() else {}
    parts = []
    for start in range(0, len(now), _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, len(now)))
        parts.append(_branch_answers(ensemble, encoder, now.take(rows), next_one.take(rows), hit))
    answers, after = (_joined(part) for part in zip(*parts, strict=True))
    hit_BC = answers.gain_BC / float(gain_N[won_N].mean()) if won_N.any() else torch.zeros_like(answers.gain_BC)
    return hit_BC.clamp(0.0, 1.0), after, answers


def _branch_answers(
    ensemble: Ensemble, encoder: Encoder, now: WindowBatch, next_one: WindowBatch, hit: Mapping[str, float]
) -> tuple[Answers, Answers]:
    x_BTD, length_B = map(torch.from_numpy, encoder.encode(now))
    # A branch adds one token, so remove the first token of a full window.
    full_B1 = (length_B == x_BTD.shape[1]).view(-1, 1) & (x_BTD.shape[1] > 1)
    kept_BT = (torch.arange(x_BTD.shape[1]) + full_B1).clamp(max=x_BTD.shape[1] - 1)
    x_BTD, length_B = x_BTD[torch.arange(len(x_BTD))[:, None], kept_BT], length_B - full_B1.squeeze(1).long()
    answers = _answers(ensemble, encoder, ensemble.decoder_inputs(x_BTD, length_B))
    tokens = branches(now, answers.cost_BC.double().numpy(), next_one, hit)
    next_BKD = torch.from_numpy(replace(encoder, window=2 * len(encoder.channels) + 1).encode(tokens)[0])
    # Without an exposure (the first branch), the new token replaces the last one. Otherwise, it is appended.
    follows_K = (torch.arange(next_BKD.shape[1]) > 0).long()
    kept_BK = (length_B[:, None] - 1 + follows_K).clamp(max=x_BTD.shape[1] - 1)
    inputs = ensemble.inputs_after(x_BTD, kept_BK, next_BKD)
    return answers, _answers(ensemble, encoder, inputs)


def _by_channel(later_BK: Tensor, hit_BC: Tensor) -> Tensor:
    """Return the expected value (B, C) after an exposure on each channel that has a gain with probability `hit_BC`."""
    channels = hit_BC.shape[1]
    return hit_BC * later_BK[:, 1 + channels :] + (1 - hit_BC) * later_BK[:, 1 : 1 + channels]


@torch.no_grad()
def _later(after: Answers, future: FutureValue | None, price: float) -> Tensor:
    """Return the expected gain and cost (M, 2) after each branch; only of the next opportunity if `future` is None."""
    own_MC2 = torch.stack([after.gain_BC, after.cost_BC], dim=-1)
    level_M2, added_MC2 = (torch.zeros(2), torch.zeros_like(own_MC2))
    if future is not None:
        level_M2, added_MC2 = future.values(after.inputs)
    utility_MC = expected_utility(Forecast(after.logits_BC, after.gain_BC, after.cost_BC, added_MC2), price)
    utility_M, best_M = torch.from_numpy(utility_MC).max(dim=1)
    in_all_MC2 = own_MC2 + added_MC2
    in_all_MC2[..., 1] = torch.maximum(in_all_MC2[..., 1], LEAST_COST * after.cost_BC)  # as in the decision rule
    chosen_M2 = in_all_MC2[torch.arange(len(best_M)), best_M]
    return level_M2 + chosen_M2 * (utility_M > 0)[:, None]


def _fit(future: FutureValue, inputs: DecoderInputs, level_B2: Tensor, added_BC2: Tensor) -> None:
    """Train the heads on targets scaled by their spread, so that units do not matter."""
    mean_2, level_scale_2 = level_B2.mean(0), level_B2.std(0).clamp(min=1e-6)
    added_scale_2 = added_BC2.square().mean((0, 1)).sqrt().clamp(min=1e-6)
    level_B2, added_BC2 = (level_B2 - mean_2) / level_scale_2, added_BC2 / added_scale_2
    for head, (h_BH, memory_BCM) in zip(future.members, inputs, strict=True):
        head.level_mean_2, head.level_scale_2, head.added_scale_2 = mean_2, level_scale_2, added_scale_2
        optimizer = torch.optim.AdamW(head.parameters(), lr=_LR, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _EPOCHS)
        for _ in range(_EPOCHS):
            for rows in torch.split(torch.randperm(len(h_BH)), _BATCH):
                level, added = head(h_BH[rows], memory_BCM[rows])
                loss = F.mse_loss(level, level_B2[rows]) + F.mse_loss(added, added_BC2[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
