"""The drift tests that compare a period's columns with the training reference; each is defined once.

To add a test, add one entry to TESTS: thresholds, findings, messages and the report follow from it. Rows are given by
weights, so that a resampled period needs no copy of the data, and many periods can be scored at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import rel_entr

from mtorl.arrays import Floats, Ints

Score = Callable[[Floats, Floats], Floats]
"""Scores a period against the reference. Each is given by a weight per row, (rows,), or several are given at once by a
column of weights each, (rows, periods)."""


class Words(NamedTuple):
    """Texts about a problem."""

    kind: Literal["drift", "data_quality"]  # drift: values changed; data quality: the policy's input is broken
    summary: str  # follows the column's name in an alert


@dataclass(frozen=True)
class DriftTest:
    """One test of a column."""

    problem: str  # name of a finding in drift.json
    words: Words
    kinds: tuple[str, ...]  # kinds of columns that it applies to
    method: str  # name of the score
    scorer: Callable[[pd.Series], Score]  # creates the score of a column
    floor: float  # smallest relevant score, even if it is significant
    message: str  # text with placeholders: `found`, the finding in drift.json, and `change`, from `change`
    evidently: bool = False  # whether Evidently has this method, so that its page shows it and its value is used
    joint: bool = True  # whether the false-alarm rate holds for all columns together, or for each column


class NumericDistance:
    """Evidently's "wasserstein": the first Wasserstein distance divided by the reference's standard deviation."""

    def __init__(self, values: pd.Series) -> None:
        x = values.to_numpy(dtype=np.float64)
        present = np.flatnonzero(~np.isnan(x))
        distinct, code = np.unique(x[present], return_inverse=True)
        self._gaps = np.diff(distinct)
        # Centred on the median, because a huge value shifts the mean so far that rounding loses other differences.
        self._from_median = distinct - np.median(x[present]) if len(present) else distinct
        self._totals = _totals_by(code, present, (len(distinct), len(x)))

    def __call__(self, reference: Floats, period: Floats) -> Floats:
        """Return scores of periods against the reference (see `Score`)."""
        r, p = self._totals @ reference, self._totals @ period
        known = (r.sum(0) > 0.0) & (p.sum(0) > 0.0)
        in_r, in_p = np.where(known, r.sum(0), 1.0), np.where(known, p.sum(0), 1.0)
        variance = _dot(self._from_median**2, r) / in_r - (_dot(self._from_median, r) / in_r) ** 2
        std = np.sqrt(np.maximum(variance, 0.0))
        # Normalised after the cumulative sum, so that both sums are exactly 1 beyond the last weighted value.
        cdf_gap = np.abs(np.cumsum(p, axis=0)[:-1] / in_p - np.cumsum(r, axis=0)[:-1] / in_r)
        return np.where(known, _dot(self._gaps, cdf_gap) / np.maximum(std, 0.001), 0.0)


class CategoricalDistance:
    """Evidently's "jensenshannon": Jensen-Shannon distance (natural logarithm) of the category shares."""

    def __init__(self, values: pd.Series) -> None:
        codes, labels = pd.factorize(values)
        present = np.flatnonzero(codes >= 0)
        self._totals = _totals_by(codes[present], present, (len(labels), len(codes)))

    def __call__(self, reference: Floats, period: Floats) -> Floats:
        """Return scores of periods against the reference (see `Score`)."""
        p, q = self._totals @ reference, self._totals @ period
        known = (p.sum(0) > 0.0) & (q.sum(0) > 0.0)
        p, q = p / np.where(known, p.sum(0), 1.0), q / np.where(known, q.sum(0), 1.0)
        m = (p + q) / 2
        divergence = rel_entr(p, m).sum(0) + rel_entr(q, m).sum(0)
        return np.where(known, np.sqrt(np.maximum(divergence, 0.0) / 2), 0.0)


class MissingShareRise:
    """Increase of the share of missing values over the reference."""

    def __init__(self, values: pd.Series) -> None:
        self._absent = np.flatnonzero(values.isna())

    def __call__(self, reference: Floats, period: Floats) -> Floats:
        """Return scores of periods against the reference (see `Score`)."""
        rows = self._absent
        return np.asarray(
            period[rows].sum(0) / np.maximum(period.sum(0), 1.0) - reference[rows].sum(0) / reference.sum(0)
        )


def _totals_by(code: Ints, row: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    """Return a matrix that sums the weights of the rows of each code."""
    return sparse.csr_array((np.ones(len(row)), (code, row)), shape=shape)


def _dot(a: Floats, b: Floats) -> Floats:
    """Return a dot product on one thread: for sums this small, synchronising BLAS threads costs more than it saves."""
    return np.asarray(np.einsum("i,i...->...", a, b))


def change(reference: pd.Series, period: pd.Series) -> str:
    """Describe the change of a numeric column's mean, or of the category share that has changed most."""
    if period.dtype.kind == "f":
        return f"mean {period.mean():.4g}, in training {reference.mean():.4g}"
    now, before = (rows.value_counts(normalize=True) for rows in (period, reference))
    label = now.sub(before, fill_value=0.0).abs().idxmax()
    return f"{label!r:.40} in {now.get(label, 0.0):.1%} of the rows, in training {before.get(label, 0.0):.1%}"


def _distance(kind: str, method: str, scorer: Callable[[pd.Series], Score], floor: float, unit: str) -> DriftTest:
    words = Words("drift", "has moved away from the training data")
    message = f"{{change}}; {{found.method}} {{found.score:.3f}} {unit}, threshold {{found.threshold:.3f}}"
    return DriftTest("drift", words, (kind,), method, scorer, floor, message, evidently=True)


# The first test with a finding names the column's problem. Without a finding, the last test's score is reported.
TESTS = (
    DriftTest(
        problem="missing_values",
        words=Words("data_quality", "has lost values"),
        kinds=("numeric", "categorical"),
        method="missing_share_rise",
        scorer=MissingShareRise,
        floor=0.05,
        message="{found.missing_share:.1%} of values missing, {found.reference_missing_share:.1%} in the reference",
        joint=False,
    ),
    _distance("numeric", "wasserstein", NumericDistance, floor=0.05, unit="standard deviations"),
    _distance("categorical", "jensenshannon", CategoricalDistance, floor=0.03, unit="of at most 0.833"),
)

# Problems of a column that no test applies to.
UNTESTABLE: Mapping[str, Words] = {
    "no_values": Words("data_quality", "has no usable value"),
    "no_column": Words("data_quality", "is missing"),
    "no_score": Words("data_quality", "has values that cannot be compared"),
}


def words_of(problem: str) -> Words:
    """Return the texts about a problem, from a test or from UNTESTABLE."""
    return {**UNTESTABLE, **{test.problem: test.words for test in TESTS}}[problem]


def asked_of(kind: str) -> tuple[DriftTest, ...]:
    """Return the tests of a column of this kind."""
    return tuple(test for test in TESTS if kind in test.kinds)
