"""Users in many segments with equal gains, some of which favour one channel by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtorl.evaluation.expected_outcomes import ExpectedOutcomes
from mtorl.evaluation.logged_rows import Exposure, LoggedRows, PolicyOnLog

SEGMENTS, CHANNELS, DECISIONS = 40, 2, 3  # DECISIONS: per user
RATE, EXPLORED, MOVED = 0.1, 0.05, 0.2


@dataclass(frozen=True)
class Decisions:
    """Decisions of a policy that draws the first channel in nearly all rows."""

    user: np.ndarray
    segment: np.ndarray
    channel: np.ndarray
    gain: np.ndarray
    probs: np.ndarray

    @property
    def log(self) -> LoggedRows:
        rows = len(self.user)
        exposure = Exposure(np.ones(rows, dtype=bool), np.ones(rows), self.probs)
        propensity = self.probs[np.arange(rows), self.channel]
        return LoggedRows(self.channel, propensity, self.gain, np.ones(rows), self.user, exposure)

    def take(self, rows: np.ndarray) -> Decisions:
        return Decisions(*(column[rows] for column in vars(self).values()))

    def expected(self, table: np.ndarray) -> ExpectedOutcomes:
        return ExpectedOutcomes(table[self.segment], np.ones((len(self.user), CHANNELS)))


def doubted_log(users: int, seed: int, lift: float) -> Decisions:
    """Return decisions in which the second channel gains `lift` more in every segment."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.array([f"{seed}-{i}" for i in range(users)], dtype=object), DECISIONS)
    segment = random.integers(SEGMENTS, size=len(user))
    probs = np.tile([1 - EXPLORED / 2, EXPLORED / 2], (len(user), 1))
    channel = (random.random(len(user)) < EXPLORED / 2).astype(int)
    gain = (random.random(len(user)) < RATE + lift * channel).astype(float)
    return Decisions(user, segment, channel, gain, probs)


def means(of: Decisions, prior: float) -> np.ndarray:
    """Return the mean gain per segment and channel, shrunk by `prior` rows with the channel's mean."""
    count, gain = np.zeros((SEGMENTS, CHANNELS)), np.zeros((SEGMENTS, CHANNELS))
    np.add.at(count, (of.segment, of.channel), 1.0)
    np.add.at(gain, (of.segment, of.channel), of.gain)
    return (gain + prior * gain.sum(axis=0) / count.sum(axis=0)) / (count + prior)


def best_looking(table: np.ndarray) -> np.ndarray:
    """Return the second channel for the segments where it looks best, else the first."""
    most = np.argsort(table[:, 0] - table[:, 1])[: int(MOVED * SEGMENTS)]
    return np.isin(np.arange(SEGMENTS), most).astype(int)


def moved(channel_of: np.ndarray, of: Decisions) -> PolicyOnLog:
    return PolicyOnLog.always_exposing(np.eye(CHANNELS)[channel_of[of.segment]])
