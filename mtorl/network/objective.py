"""The training objective.

    loss = action + mu * reward + nu * cost + lam * preference

    action      Cross-entropy over channels at every step of the log (the paper's L_action), which clones the logging
                policy. Our own decisions are left out of this term and of the preference. The decision rule shifts the
                cloned policy towards profitable channels, and a clone of shifted choices would be shifted twice.
    reward      Binary cross-entropy of the *logged* channel's reward with its label in [0, 1] (L_reward). The other
                channels have no label in the log and get no gradient.
    cost        Poisson deviance of the logged channel's cost, in units of the mean cost (not in the paper). The
                deviance is smallest for the expected cost, and a cost may be zero. A few expensive exposures dominate
                the deviance less than they would dominate a squared error.
    preference  -log sigmoid(m_i - m_j) over random pairs of windows in a batch, where i has the higher mean reward and
                m is the mean log-probability of a window's logged actions. The term moves the action head towards
                successful journeys. It is a pairwise ranking term, not DPO, because there is no reference policy and
                the windows have different states. The paper's term, a KL divergence between the outputs of two
                windows, is not DPO either. Our term is at least 0, with a slope of at most 1, so it can't diverge.

Shape suffixes: B windows, T steps, N real steps (those with a target), C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtorl.network.model import MTORL
from mtorl.window.loader import Batch

TERMS = ("action", "reward", "cost", "preference")


class Objective(nn.Module):
    """Computes the four terms of the loss, in the one module that `DistributedDataParallel` needs."""

    def __init__(self, model: MTORL) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x_BTD: Tensor, channel_BT: Tensor, reward_BT: Tensor, cost_BT: Tensor, clone_BT: Tensor
    ) -> dict[str, Tensor]:
        """Return the four terms of the loss by name, each as a mean over the batch."""
        batch = Batch(x_BTD, channel_BT, reward_BT, cost_BT, clone_BT)
        terms, log_prob_BT = losses(self.model, batch)
        return {**terms, "preference": preference_loss(log_prob_BT, reward_BT, clone_BT)}


def losses(model: MTORL, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Return the action, reward and cost terms of the loss, and the log-probabilities of the logged channels (B, T).

    The action term uses only the steps in `clone_BT`.
    """
    real_BT = batch.channel_BT >= 0
    clone_N = batch.clone_BT[real_BT].float()
    logits_NC, reward_logit_N, cost_N = model.forward_logged(batch.x_BTD, batch.channel_BT)
    logits_NC, reward_logit_N, cost_N = logits_NC.float(), reward_logit_N.float(), cost_N.float()
    log_prob_N = logits_NC.log_softmax(1).gather(1, batch.channel_BT[real_BT].unsqueeze(1)).squeeze(1) * clone_N
    mean_N = cost_N / model.cost_scale + 1e-6  # softplus may underflow to zero
    seen_N = batch.cost_BT[real_BT] / model.cost_scale
    deviance_N = mean_N - seen_N + torch.xlogy(seen_N, seen_N) - torch.xlogy(seen_N, mean_N)
    terms = {
        "action": -log_prob_N.sum() / clone_N.sum().clamp(min=1),
        "reward": F.binary_cross_entropy_with_logits(reward_logit_N, batch.reward_BT[real_BT]),
        "cost": deviance_N.mean(),
    }
    return terms, torch.zeros_like(batch.reward_BT).masked_scatter(real_BT, log_prob_N)


def preference_loss(log_prob_BT: Tensor, reward_BT: Tensor, clone_BT: Tensor) -> Tensor:
    """Return -log sigmoid(margin), averaged over random pairs of windows with different mean rewards."""
    length_B = clone_BT.sum(1)
    score_B = log_prob_BT.sum(1) / length_B.clamp(min=1)
    earned_B = (reward_BT * clone_BT).sum(1) / length_B.clamp(min=1)
    # Neighbours are random pairs, because a batch is in random order.
    side_B = torch.sign(earned_B - earned_B.roll(1)) * (length_B * length_B.roll(1)).sign()
    pairs = side_B.abs().sum().clamp(min=1)
    return -(F.logsigmoid(side_B * (score_B - score_B.roll(1))) * side_B.abs()).sum() / pairs
