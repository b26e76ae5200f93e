"""Online Decision Transformer, offline phase: the policy keeps enough entropy to explore later.

    predictor = fit(train, val, encoder, seed=0)

    minimise E[ -log pi(a_t | x_1..t, R_1..t) ]  so that  E[ H(pi(. | x_1..t, R_1..t)) ] >= beta
    loss   = E[ -log pi ] + lambda (beta - E[ H ]),  and lambda grows while H < beta

(Zheng et al. 2022, arXiv:2202.05607.) With channels as actions, a Decision Transformer is stochastic already, so only
the constraint is new; where the entropy of the log exceeds beta, the two methods are the same. The online phase needs
an environment and is left out. Rewards and costs are predicted as in `decision_transformer`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mtorl.baselines.decision_transformer import BATCH, EPOCHS, LR, DecisionTransformer, Transformer
from mtorl.baselines.inputs.trajectories import Tiles
from mtorl.baselines.learning import Schedule, learn, seeded
from mtorl.window.encoder import Encoder
from mtorl.window.labels import labels
from mtorl.window.window import WindowBatch

RANDOMNESS = 0.7  # beta, as a share of the entropy of the log's channel frequencies
DUAL_LR = 0.01  # of lambda: what a step adds for each unit of missing entropy
STRICTNESS = 3.0  # weight of missing entropy when epochs are compared; larger than lambda gets in training


def fit(train: WindowBatch, val: WindowBatch, encoder: Encoder, seed: int) -> DecisionTransformer:
    """Train the network.

    Args:
        train: Windows of training users with their targets, one for each touchpoint.
        val: The same of validation users, for early stopping.
        encoder: Of the training windows.
        seed: Of initial weights and the order of windows.
    """
    data, val_data = Tiles.of(train, encoder), Tiles.of(val, encoder)
    logged = labels(train, encoder)
    share_C = np.bincount(logged.channel_B, minlength=len(encoder.channels)) / len(train)
    beta = RANDOMNESS * float(-(share_C * np.log(np.maximum(share_C, 1e-12))).sum())
    multiplier = 0.0  # lambda
    with seeded(seed):
        network = Transformer(data, encoder)

        def loss(rows_B: Tensor) -> Tensor:
            nonlocal multiplier
            logits_NC, channel_N = network.logged(data, rows_B)
            missing = beta - entropy(logits_NC)
            multiplier = max(0.0, multiplier + DUAL_LR * missing.item())
            return F.cross_entropy(logits_NC, channel_N) + multiplier * missing

        def validate() -> float:
            logits_NC, channel_N = network.logged(val_data, torch.arange(len(val_data)))
            missing = max(0.0, beta - entropy(logits_NC).item())
            return F.cross_entropy(logits_NC, channel_N).item() + STRICTNESS * missing

        learn(network, len(data), loss, Schedule(EPOCHS, LR, BATCH), validate)
    return DecisionTransformer.of(network, data, logged, encoder)


def entropy(logits_NC: Tensor) -> Tensor:
    """Mean entropy of the policy."""
    log_prob_NC = logits_NC.log_softmax(dim=1)
    return -(log_prob_NC.exp() * log_prob_NC).sum(dim=1).mean()
