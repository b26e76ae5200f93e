"""Computes the best possible forecast for the simulator's users, by Bayes' rule with the market's true parameters.

    P(f | clicks)  =  P(f | age group)  prod_c  E_z prod_t P(click_t | f, z_c)          z_c ~ N(0, SPREAD^2)

Here, f is the user's favourite channel, and z_c is the random part of the user's interest in channel c.

Shapes: U users, N touchpoints, C channels, F whether the channel is the favourite (no, yes), Q quadrature points.
"""

import numpy as np
from scipy.special import expit, logit, logsumexp

from mtorl.arrays import Floats, Ints
from mtorl.simulator.market import CHANNELS, FAVOURITE, LIKES, SPREAD
from mtorl.simulator.simulator import Online, Simulator

_POINTS = 15


class Informed:
    """Forecasts clicks by inferring each user's interests from the user's touchpoints.

    Attributes:
        interest_FQ: Interest at each quadrature point.
        log_weight_Q: Logarithm of each quadrature point's prior probability.
        evidence_UCFQ: Log-likelihood of a user's clicks on a channel, given the interest.
        rest_UC: Log-odds of a click in the current round, without the interest.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        point_Q, weight_Q = np.polynomial.hermite_e.hermegauss(_POINTS)
        self.interest_FQ = SPREAD * point_Q + LIKES * np.arange(2)[:, None]
        self.log_weight_Q = np.log(weight_Q / weight_Q.sum())
        self._log, self._logged_p_NC = simulator.log(), simulator.click_probability()
        self._online: Online | None = None
        self.evidence_UCFQ, self.rest_UC = np.zeros(0), np.zeros(0)

    def click_probability(self, online: Online, round_index: int) -> Floats:
        """Return the probability of a click on every channel for every user, given all outcomes before this round.

        Call this for each round in order.
        """
        if online is not self._online:
            self._begin(online)
        else:
            user_N, channel_N, click_N = online.shown(round_index - 1)
            self._see(user_N, channel_N, click_N, self.rest_UC[user_N])
        self.rest_UC = logit(online.click_probability(round_index)) - online.interest()
        return self._predict(online)

    def _begin(self, online: Online) -> None:
        self._online = online
        self.evidence_UCFQ = np.zeros((len(online.users), len(CHANNELS), *self.interest_FQ.shape))
        row = {user: i for i, user in enumerate(online.users)}
        here = self._log["user_id"].isin(row.keys()).to_numpy()
        log = self._log[here]
        user_N = np.array([row[user] for user in log["user_id"]], dtype=np.int64)
        channel_N = np.array([CHANNELS.index(channel) for channel in log["channel"]], dtype=np.int64)
        rest_NC = logit(self._logged_p_NC[here]) - online.interest()[user_N]
        self._see(user_N, channel_N, log["click"].to_numpy(dtype=np.int64), rest_NC)

    def _see(self, user_N: Ints, channel_N: Ints, click_N: Ints, rest_NC: Floats) -> None:
        rest_N = rest_NC[np.arange(len(user_N)), channel_N]
        p_NFQ = expit(rest_N[:, None, None] + self.interest_FQ)
        likelihood_NFQ = np.log(np.where(click_N[:, None, None] == 1, p_NFQ, 1 - p_NFQ))
        np.add.at(self.evidence_UCFQ, (user_N, channel_N), likelihood_NFQ)

    def _predict(self, online: Online) -> Floats:
        joint_UCFQ = self.evidence_UCFQ + self.log_weight_Q
        evidence_UCF = logsumexp(joint_UCFQ, axis=-1)
        posterior_UCFQ = np.exp(joint_UCFQ - evidence_UCF[..., None])
        p_UCF = (posterior_UCFQ * expit(self.rest_UC[..., None, None] + self.interest_FQ)).sum(axis=-1)
        # Exactly one channel is a favourite: combine the prior with the likelihood ratio of the clicks.
        log_odds_UC = evidence_UCF[..., 1] - evidence_UCF[..., 0] + np.log(FAVOURITE[online.age()])
        favourite_UC = np.exp(log_odds_UC - logsumexp(log_odds_UC, axis=1, keepdims=True))
        return np.asarray(favourite_UC * p_UCF[..., 1] + (1 - favourite_UC) * p_UCF[..., 0])
