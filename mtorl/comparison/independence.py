"""Tests whether the logged channel is independent of everything that was known before it.

    result = independence(WindowTable.load("windows"))
    result["verdict"], result["tests"][0]["p_holm"]

`propensity: channel-frequency` in a data set's description claims that all channels were drawn at random, with the same
probabilities. If the claim is true, the channel of a touchpoint is independent of everything that was known before: the
previous touchpoint, the user, the time, and each context and static column. Each column is tested in each split. Its
values, or bins of a numeric column, are called levels. A table counts rows by level and channel, and Pearson's

    chi2 = sum((count - expected)^2 / expected)   is about (levels - 1) (channels - 1) if the claim is true.

If a column has many levels, counts are small, and chi2 does not have its usual distribution. So p-values come from a
scaled chi-square with the exact mean and variance of chi2 given both margins (Haldane 1940; in the form of Dawson
1954). They are corrected for multiple tests (Holm 1979): if the claim is true, at most 5 % of logs have a p-value below
.05. Each test reports the strength of a dependence as bias-corrected Cramér's V (Bergsma 2013): 0 for none, 1 if the
level determines the channel. No test covers a dependence on a combination of columns, but a model reveals it if its
action_logloss is lower than that of the channel frequencies.

Shapes: B rows.
"""

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import pandas as pd
from scipy.special import gammaincc

from mtorl.arrays import Floats, Ints
from mtorl.log import columns as read
from mtorl.log.columns import Codes, Values
from mtorl.window.table import WindowTable

ALPHA = 0.05
_BINS = 10  # a numeric column with more distinct values is divided into bins


class Link(TypedDict):
    """Result of a chi-squared test of the channel against the level of another column."""

    levels: int
    rows: int
    chi2: float
    df: int
    chi2_per_df: float  # close to 1 if the channel is independent of the level
    p: float
    cramers_v: float


class IndependenceTest(Link):
    """Result of the test of the channel against the column `against`, for the users of one split."""

    split: str
    against: str
    p_holm: float  # corrected for the number of tested columns and splits


class Independence(TypedDict):
    """Results of all tests, as values for JSON."""

    independent: bool
    verdict: str
    tests: list[IndependenceTest]


def independence(table: WindowTable) -> Independence:
    """Test in each split whether the logged channel depends on anything that was known before.

    Raises:
        ValueError: No test is possible, for example because there is only one channel.
    """
    spec = table.spec
    channel_B = read.arrow_channels(read.flat(table.steps["channel"]), spec.channels, "channel")
    levels = {name: _levels(values) for name, values in _known_before(table, channel_B)}
    links: dict[tuple[str, str], Link] = {}
    for split in ("train", "val", "test"):
        in_B = table.is_in(split)
        for against, level_B in levels.items():
            if (tested := link(level_B[in_B], channel_B[in_B])) is not None:
                links[split, against] = tested
    if not links:
        raise ValueError("nothing to test: nowhere two channels and two levels of anything")
    corrected = holm(np.array([tested["p"] for tested in links.values()]))
    tests = [
        IndependenceTest(split=split, against=against, p_holm=p, **tested)
        for ((split, against), tested), p in zip(links.items(), corrected.tolist(), strict=True)
    ]
    independent = bool(corrected.min() >= ALPHA)
    return Independence(independent=independent, verdict=_verdict(tests), tests=tests)


def link(level_B: Ints, channel_B: Ints) -> Link | None:
    """Test whether the channels of rows depend on their levels, which are the values of another column.

    Returns None if there are fewer than 4 rows, only one level or only one channel.
    """
    (_, level), (_, channel) = (np.unique(part, return_inverse=True) for part in (level_B, channel_B))
    rows = len(level)
    if rows < 4 or not level.any() or not channel.any():
        return None
    levels, channels = int(level.max()) + 1, int(channel.max()) + 1
    count = np.bincount(level * channels + channel, minlength=levels * channels).reshape(levels, channels)
    expected = count.sum(axis=1, keepdims=True) * (count.sum(axis=0) / rows)
    chi2 = float(((count - expected) ** 2 / expected).sum())
    mean, variance = chi2_moments(count.sum(axis=1), count.sum(axis=0))
    df = (levels - 1) * (channels - 1)
    # A chi-squared distribution times `scale`, with the same mean and variance, approximates the distribution of chi2.
    scale = variance / (2 * mean)
    p = float(gammaincc(mean / scale / 2, chi2 / scale / 2)) if scale > 0 else 1.0
    # Subtract the bias (Bergsma 2013): without a dependence, chi2 / rows is about df / rows.
    strength = max(chi2 / rows - df / (rows - 1), 0.0)
    sizes = [n - (n - 1) ** 2 / (rows - 1) for n in (levels, channels)]
    v = float(np.sqrt(strength / (min(sizes) - 1))) if min(sizes) > 1 else 0.0
    return Link(levels=levels, rows=rows, chi2=chi2, df=df, chi2_per_df=chi2 / df, p=p, cramers_v=v)


def _known_before(table: WindowTable, channel_B: Ints) -> Iterator[tuple[str, Values]]:
    spec, rows = table.spec, table.rows
    start_B = rows["step"].to_numpy() == 0
    before_B = np.where(start_B, -1, np.arange(len(rows)) - 1)
    yield "previous channel", Codes(np.where(start_B, -1, channel_B[before_B]), spec.channels)
    for outcome in spec.immediate:
        values_B = rows[outcome].to_numpy(np.float64)
        # An outcome that never varies would only show where journeys start, as "previous channel" does.
        if np.ptp(values_B):
            yield f"previous {outcome}", np.where(start_B, np.nan, values_B[before_B])
    yield "touchpoints before", rows["step"].to_numpy(np.float64)
    user_B, users = pd.factorize(rows["user_id"])
    yield "user", Codes(user_B.astype(np.int64), tuple(users))
    when_B = pd.DatetimeIndex(rows["timestamp"])
    yield "time", when_B.as_unit("us").asi8.astype(np.float64)
    yield "hour of day", Codes(when_B.hour.to_numpy(np.int64), tuple(map(str, range(24))))
    for column in (*spec.context, *spec.static):
        yield column.name, read.arrow_values(column, read.flat(table.steps[column.name]), column.name)


def _levels(values: Values) -> Ints:
    """Number the category or the numeric bin of each row; missing values get a number of their own."""
    if isinstance(values, Codes):
        return values.codes + 1
    known = values[np.isfinite(values)]
    edges = np.unique(known)
    if len(edges) > _BINS:
        edges = np.unique(np.quantile(known, np.arange(1, _BINS) / _BINS))
    return np.where(np.isfinite(values), np.searchsorted(edges, values), len(edges) + 1).astype(np.int64)


def chi2_moments(level_sums: Ints, channel_sums: Ints) -> tuple[float, float]:
    """Return the exact mean and variance of chi2 if channels are independent of levels (Haldane 1940; Dawson 1954).

    Args:
        level_sums: Number of rows with each level.
        channel_sums: Number of rows with each channel.
    """
    n = float(level_sums.sum())
    sides = [(float(len(sums)), float((n / sums).sum())) for sums in (level_sums, channel_sums)]
    (v1, w1), (v2, w2) = (((k - 1) * (n - k) / (n - 1), (inverse - k * k) / (n - 2)) for k, inverse in sides)
    mean = n / (n - 1) * (sides[0][0] - 1) * (sides[1][0] - 1)
    return mean, 2 * n / (n - 3) * (v1 - w1) * (v2 - w2) + n * n / (n - 1) * w1 * w2


def holm(p: Floats) -> Floats:
    """Return p-values corrected for multiple tests (Holm 1979), in the order of `p`."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def _verdict(tests: list[IndependenceTest]) -> str:
    low = [test for test in tests if test["p_holm"] < ALPHA]
    if low:
        most = max(low, key=lambda test: test["cramers_v"])
        return (
            f"the channel depends on what was known before it: {len(low)} of {len(tests)} tests fall below {ALPHA:g} "
            f"(Holm), the strongest link is {most['against']} among {most['split']} users, Cramér's V "
            f"{most['cramers_v']:.3f}"
        )
    least, most = min(tests, key=lambda test: test["p_holm"]), max(tests, key=lambda test: test["cramers_v"])
    return (
        f"no dependence found: none of {len(tests)} tests falls below {ALPHA:g} (Holm), the lowest is "
        f"{least['against']} among {least['split']} users at {least['p_holm']:.2f}; no link is stronger than "
        f"Cramér's V {most['cramers_v']:.3f}"
    )
