"""Computes a verdict's sums from rows per user, arm and stage."""

import numpy as np

from mtorl.experiment.inference.sums import Floats, Sums


def sums_of_rows(user: np.ndarray, arm: np.ndarray, stage: np.ndarray, figures: Floats) -> Sums:
    values = np.zeros((user.max(initial=0) + 1, 2, stage.max(initial=0) + 1, figures.shape[1]))
    present = np.zeros(values.shape[:3], dtype=np.bool_)
    values[user, arm, stage], present[user, arm, stage] = figures, True
    return Sums.of_users(values, present)


def sums_of_arms(arm: np.ndarray, figures: Floats) -> Sums:
    return sums_of_rows(np.arange(len(arm)), arm, np.zeros(len(arm), dtype=np.intp), figures)


def sums_at(looks: np.ndarray, arm: np.ndarray, figures: Floats) -> Sums:
    """Return the sums over the first `look` users, for each of L looks. The first axis has the looks."""
    found = [sums_of_arms(arm[:look], figures[:look]) for look in looks]
    return Sums(*(np.stack([getattr(one, name) for one in found]) for name in Sums.__dataclass_fields__))
