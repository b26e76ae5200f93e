"""Samples for the drift check: touchpoints that stand for a log, and users that stand for all."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mtorl.arrays import Bools
from mtorl.log.splits import fractions_of

MIN_ROWS, MIN_USERS = 100, 20  # of a period; fewer cannot tell drift from chance
_LARGEST = 1e100  # of a number: sums of squares stay finite
MAX_ROWS = 20_000  # beyond this distances hardly move, while memory and time grow


def stretches(user_ids: pd.Series, share: float) -> Bools:
    """Rows of a stretch of neighbouring touchpoints of each user (whole users, by time), as long as a share of them.

    A hash of the user says where it begins; past the end it goes on at the start. So every touchpoint is equally
    likely. The last touchpoints would overstate some hours; single ones would hide how alike neighbours are.
    """
    code_N, users = pd.factorize(user_ids)
    length_U = np.bincount(code_N, minlength=len(users))
    first_U = np.cumsum(length_U) - length_U
    kept_U = np.floor(length_U * share + fractions_of(users, "drift-length"))
    start_U = np.floor(length_U * fractions_of(users, "drift-start"))
    step_N = np.arange(len(code_N)) - first_U[code_N]
    return np.asarray((step_N - start_U[code_N]) % length_U[code_N] < kept_U[code_N])


def sample_users(frame: pd.DataFrame, rows: int = MAX_ROWS) -> pd.DataFrame:
    """Whole users until there are so many rows; a hash orders them, so every period keeps the same ones.

    A sample of a sample and of further users is the sample of all of them.
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
    """Columns of these kinds ("numeric" or "categorical") as floats and strings; values that are no number are missing.

    Decimal, text and inf have no distance, and 1 against "1" would be a drift that only the file format made. Nor has a
    number whose square is infinite: the largest double stands for "unknown" in some systems.
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
