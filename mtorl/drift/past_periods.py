"""Forecasts a measure with a standard error from earlier periods.

    forecast = Forecast.of(past, se=0.002)                      # past: values and standard errors of earlier periods
    forecast = Forecast.of(past, se=0.002, weekdays=weekdays)   # ... which are days: of each, and of the one to come
    forecast.p_below(0.081)                                     # how likely a value this low would be

Days differ by more than the chance of who came: by weekday, weather, other campaigns. So the forecast is that of a
random-effects model:

    value = mean + [at weekends: c] + w of its weekday + a deviation of its own + sampling error
    c: as good as unknown before, N(0, (WEEKEND mean)^2)      w: variance tau^2       own deviation: variance own^2

Without weekdays only mean, own deviation and sampling error are left. Variances are estimated by moments: with weights
W = 1 / se^2 and M = W - W X (X'W X)^-1 X'W for the columns X to be left out of account, the mean of y'M y is
tr(M Se) + own^2 tr(M), where Se holds the squared standard errors (DerSimonian and Laird, 1986; with columns,
Thompson and Sharp, 1999; what is known of c before is added to X'W X). X is mean and weekend; or, once two weeks have
been seen, each weekday, and tau^2 is what weekdays differ by beyond own^2. It is 0 if that is nothing. Effects come
from the equations of Henderson (1975), which shrink w toward 0 the more, the less weekdays differ. A weekday that was
never seen has all of tau^2 as an error, and a first weekend that of c.

The forecast is a t distribution, with one degree of freedom less than periods and what was fitted to them leave
(Higgins, Thompson and Spiegelhalter, 2009). Where neighbouring days are alike, one bad day tells of the next: with the
correlation r that was seen, own^2 grows by (1 + r) / (1 - r), as the variance of a long mean does. Where days hardly
differ, or too few have been seen to tell, the forecast is still as wide as SMALLEST of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from mtorl.arrays import Floats

FEWEST, MOST = 7, 28  # periods that a forecast needs, and that it reads
_MOST_ALIKE = 0.8
SMALLEST = 0.02  # least standard deviation of a period, as a share of the mean
WEEKEND = 0.5  # standard deviation of the difference of weekends, as a share of the mean
WEEK = 7
_SATURDAY = 5


@dataclass(frozen=True)
class Forecast:
    """The next period's value, as a t distribution."""

    mean: float
    sd: float  # scale of the distribution, the period's own standard error included
    degrees: float

    @classmethod
    def of(
        cls,
        past: Sequence[tuple[float, float]],
        se: float,
        smallest: float = 0.0,
        weekdays: Sequence[int] | None = None,
    ) -> Forecast | None:
        """Fit to earlier periods; None if there are fewer than FEWEST.

        Args:
            past: Value and standard error of each, the newest last; the last MOST count.
            se: Standard error of the period to come.
            smallest: Least standard deviation of a period, in the measure's unit: a share that was always 0 may rise.
            weekdays: Of each past period and, last, of the one to come; Monday is 0. None: periods are no days.
        """
        if len(past) < FEWEST:
            return None
        value_P, se_P = np.array(past[-MOST:], dtype=np.float64).T
        typical = max(float(np.abs(value_P).mean()), 1e-12)
        variance_P = np.maximum(se_P**2, (1e-6 * typical) ** 2)
        # Columns: mean, weekend, each weekday; the last row is the period to come.
        columns_QK, prior_K = _columns(None if weekdays is None else weekdays[-MOST - 1 :], len(value_P), typical)
        between, of_weekday = _variances(value_P, variance_P, columns_QK[:-1], prior_K)
        if of_weekday > 0.0:
            prior_K[2:] = 1.0 / of_weekday
        else:
            columns_QK, prior_K = columns_QK[:, :2], prior_K[:2]
        fitted_PK, next_K = columns_QK[:-1], columns_QK[-1]
        weighted_PK = fitted_PK / (variance_P + between)[:, None]
        error_KK = np.linalg.inv(weighted_PK.T @ fitted_PK + np.diag(prior_K))
        hat_PP = fitted_PK @ error_KK @ weighted_PK.T
        mean = float(next_K @ error_KK @ weighted_PK.T @ value_P)
        between *= _of_neighbours(value_P - hat_PP @ value_P, hat_PP)
        own = max(between, (SMALLEST * mean) ** 2, smallest**2)
        degrees = len(value_P) - 1.0 - float(np.trace(hat_PP))
        return cls(mean, math.sqrt(own + float(next_K @ error_KK @ next_K) + se**2), degrees)

    def p_below(self, value: float) -> float:
        """Probability of a value as low as this one, or lower."""
        return float(stdtr(self.degrees, (value - self.mean) / self.sd)) if self.sd > 0.0 else float(value >= self.mean)

    def p_above(self, value: float) -> float:
        """Probability of a value as high as this one, or higher."""
        return float(stdtr(self.degrees, (self.mean - value) / self.sd)) if self.sd > 0.0 else float(value <= self.mean)

    def p_apart(self, value: float) -> float:
        """Probability of a value as far from the mean as this one, or farther."""
        return min(1.0, 2.0 * min(self.p_below(value), self.p_above(value)))


def _columns(weekdays: Sequence[int] | None, periods: int, typical: float) -> tuple[Floats, Floats]:
    """Components of a value, a row for each period, and the prior precision of each component."""
    if weekdays is None:
        return np.ones((periods + 1, 1)), np.zeros(1)
    weekday_Q = np.asarray(weekdays)
    each_Q7 = (weekday_Q[:, None] == np.arange(WEEK)).astype(np.float64)
    columns_QK = np.column_stack([np.ones(len(weekday_Q)), weekday_Q >= _SATURDAY, each_Q7])
    return columns_QK, np.array([0.0, (WEEKEND * typical) ** -2, *[0.0] * WEEK])


def _variances(value_P: Floats, variance_P: Floats, columns_PK: Floats, prior_K: Floats) -> tuple[float, float]:
    """Variances of a period's own deviation, and of weekdays beyond the weekend's effect."""
    out_PP = _leaving_out(1.0 / variance_P, columns_PK[:, :2], prior_K[:2])
    between = max(0.0, _excess(out_PP, value_P, variance_P) / float(np.trace(out_PP)))
    each_P7 = columns_PK[:, 2:]
    seen_PS = each_P7[:, each_P7.any(axis=0)]
    if len(value_P) < 2 * WEEK or seen_PS.shape[1] <= np.linalg.matrix_rank(columns_PK[:, :2]):
        return between, 0.0  # too few, or the weekend is all that they could differ by
    within_PP = _leaving_out(1.0 / variance_P, seen_PS, np.zeros(seen_PS.shape[1]))
    within = max(0.0, _excess(within_PP, value_P, variance_P) / float(np.trace(within_PP)))
    out_PP = _leaving_out(1.0 / (variance_P + within), columns_PK[:, :2], prior_K[:2])
    of_weekday = _excess(out_PP, value_P, variance_P + within) / float(np.trace(each_P7.T @ out_PP @ each_P7))
    return (within, of_weekday) if of_weekday > 0.0 else (between, 0.0)


def _leaving_out(weight_P: Floats, columns_PK: Floats, prior_K: Floats) -> Floats:
    """M: y'M y is the weighted sum of squares of what columns do not explain."""
    weighted_PK = columns_PK * weight_P[:, None]
    inverse_KK = np.linalg.inv(columns_PK.T @ weighted_PK + np.diag(prior_K))
    return np.asarray(np.diag(weight_P) - weighted_PK @ inverse_KK @ weighted_PK.T)


def _excess(out_PP: Floats, value_P: Floats, variance_P: Floats) -> float:
    """Excess of the sum of squares over its expectation by those variances."""
    return float(value_P @ out_PP @ value_P - np.diag(out_PP) @ variance_P)


def _of_neighbours(deviation_P: Floats, hat_PP: Floats) -> float:
    """Factor from the variance of a mean of independent periods to that of a long mean.

    Deviations from what was fitted to them are less alike than those from the truth: of independent periods their
    correlation is as much below 0 as is added here.
    """
    squares = float(deviation_P @ deviation_P)
    r = float(deviation_P[1:] @ deviation_P[:-1]) / squares if squares > 0.0 else 0.0
    r += float(np.trace(hat_PP, offset=1)) / (len(deviation_P) - float(np.trace(hat_PP)))
    r = min(max(r, 0.0), _MOST_ALIKE)
    return (1.0 + r) / (1.0 - r)
