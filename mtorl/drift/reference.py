"""Draws the samples for the drift check: a sample of the users, and a sample of each user's touchpoints."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mtorl.arrays import Bools
from mtorl.log.splits import fractions_of

MIN_ROWS, MIN_USERS = 100, 20  # smaller periods are not checked
_LARGEST = 1e100  # larger numbers count as missing, because the sum of their squares would overflow
MAX_ROWS = 20_000  # size of a sample; more rows would hardly change the scores


def stretches(user_ids: pd.Series, share: float) -> Bools:
    """Select a fraction `share` of each user's touchpoints, all consecutive, from a start that depends on the user id.

    After the last touchpoint, the selection continues with the first, so that all are equally likely to be selected.

    Args:
        user_ids: User of each row. All rows of a user must be present, in time order.
    """
    code_N, users = pd.factorize(user_ids)
    length_U = np.bincount(code_N, minlength=len(users))
    first_U = np.cumsum(length_U) - length_U
    kept_U = np.floor(length_U * share + fractions_of(users, "drift-length"))
    start_U = np.floor(length_U * fractions_of(users, "drift-start"))
    step_N = np.arange(len(code_N)) - first_U[code_N]
    return np.asarray((step_N - start_U[code_N]) % length_U[code_N] < kept_U[code_N])


def sample_users(frame: pd.DataFrame, rows: int = MAX_ROWS) -> pd.DataFrame:
    """Return all rows of a sample of users, about `rows` rows in total.

    A hash of the user id selects the users, so sampling a log part by part gives the same users.
    """
    if len(frame) <= rows:
        return frame
    code_N, users = pd.factorize(frame["user_id"].astype(str))
    order_U = np.argsort(fractions_of(users, "drift-users"), kind="stable")
    length_U = np.bincount(code_N)[order_U]
    kept_U = np.zeros(len(users), dtype=np.bool_)
    kept_U[order_U] = np.cumsum(length_U) - length_U < rows
    return frame[kept_U[code_N]]


def typed(frame: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """Convert columns to numbers or to categories, so that the drift tests can compare the values of two files.

    Numbers that are not finite, or exceed 1e100, become missing. Categories become str, so that 1 and "1" are equal.

    Args:
        kinds: "numeric" or "categorical" for each column to keep.
    """
    typed = {}
    for name, kind in kinds.items():
        values = frame[name]
        if kind == "numeric":
            numbers = pd.to_numeric(values, errors="coerce").astype("float64")
            typed[name] = numbers.where(numbers.abs() <= _LARGEST)
        else:
            typed[name] = values.astype(object).where(values.notna(), None).map(str, na_action="ignore")
    return pd.DataFrame(typed, index=frame.index)
