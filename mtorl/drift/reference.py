"""Draws samples for the drift check: representative touchpoints of a log, and representative users."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mtorl.arrays import Bools
from mtorl.log.splits import fractions_of

MIN_ROWS, MIN_USERS = 100, 20  # smallest size of a period; in a smaller one, drift can't be distinguished from chance
_LARGEST = 1e100  # larger numbers count as missing, so that sums of squares are finite
MAX_ROWS = 20_000  # with more rows, distances hardly change, but memory and time grow


def stretches(user_ids: pd.Series, share: float) -> Bools:
    """Return the mask of one run of consecutive touchpoints per user, which covers a `share` of the user's touchpoints.

    Rows must contain whole users in time order. A hash of the user chooses the start, and the run wraps around at the
    end, so every touchpoint is equally likely. Always taking the last touchpoints would overrepresent some hours.
    Taking single touchpoints would hide the correlation of neighbours.
    """
    code_N, users = pd.factorize(user_ids)
    length_U = np.bincount(code_N, minlength=len(users))
    first_U = np.cumsum(length_U) - length_U
    kept_U = np.floor(length_U * share + fractions_of(users, "drift-length"))
    start_U = np.floor(length_U * fractions_of(users, "drift-start"))
    step_N = np.arange(len(code_N)) - first_U[code_N]
    return np.asarray((step_N - start_U[code_N]) % length_U[code_N] < kept_U[code_N])


def sample_users(frame: pd.DataFrame, rows: int = MAX_ROWS) -> pd.DataFrame:
    """Return whole users, up to about `rows` rows in all. A hash selects the users, so periods keep the same users.

    If further users are added to a sample and the result is sampled again, the result equals a sample of all users.
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
    """Return columns as float ("numeric") or str ("categorical"); values that are not numbers become missing.

    Decimals, text and inf have no distance, and 1 versus "1" would be a drift caused only by the file format. Numbers
    with an infinite square also become missing: some systems use the largest double for "unknown".
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
