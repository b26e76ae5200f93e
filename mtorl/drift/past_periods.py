"""Forecasts the value of a measure in the next period, such as a day, from its values in earlier periods.

    forecast = Forecast.of(past, se=0.002)                      # past: values and standard errors of earlier periods
    forecast = Forecast.of(past, se=0.002, weekdays=weekdays)   # the periods are days: weekdays of past and next day
    forecast.p_below(0.081)                                     # probability of a value at most this low

Days differ by more than the sampling error, for example because of the weekday, the weather or other campaigns. So the
forecast uses a random-effects model:

    value = mean + [at weekends: c] + w of its weekday + a deviation of its own + sampling error
    c: nearly uninformative prior, N(0, (WEEKEND mean)^2)      w: variance tau^2       own deviation: variance own^2

If the weekdays are not given, only the mean, the own deviation and the sampling error remain. The variances own^2 and
tau^2 are estimated by the method of moments. Let W be 1 / se^2, let X be the columns of the effects that are fitted
first, and let M = W - W X (X'W X)^-1 X'W. The expected value of y'M y is tr(M Se) + own^2 tr(M), where Se contains the
squared standard errors (DerSimonian and Laird, 1986; with columns, Thompson and Sharp, 1999). The prior of c is added
to X'W X. X consists of the mean and the weekend. If there are two weeks of data, X has one column per weekday instead,
and tau^2 is the variance between weekdays that own^2 does not explain, or 0. The effects solve the equations of
Henderson (1975), which move w towards 0, and more so if weekdays differ less. For a weekday without data, the variance
of the error is tau^2. Before the first weekend, it is the prior variance of c.

The forecast is a t distribution. Its degrees of freedom are the number of periods, minus the fitted parameters, minus
one (Higgins, Thompson and Spiegelhalter, 2009). If neighbouring days are correlated, a bad day is often followed by
another one. So own^2 is multiplied by (1 + r) / (1 - r), where r is the observed correlation. Even if the days hardly
differ, or are few, the standard deviation is at least SMALLEST times the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from mtorl.arrays import Floats

FEWEST, MOST = 7, 28  # a forecast needs at least 7 earlier periods, and uses only the last 28
_MOST_ALIKE = 0.8  # upper bound of the correlation between neighbouring periods
SMALLEST = 0.02  # lower bound of the standard deviation between periods, as a share of the mean
WEEKEND = 0.5  # prior standard deviation of the weekend effect, as a share of the mean
WEEK = 7
_SATURDAY = 5


@dataclass(frozen=True)
class Forecast:
    """The forecast for the value of the next period, as a t distribution."""

    mean: float
    sd: float  # scale of the distribution, including the sampling error of the next period
    degrees: float

    @classmethod
    def of(
        cls,
        past: Sequence[tuple[float, float]],
        se: float,
        smallest: float = 0.0,
        weekdays: Sequence[int] | None = None,
    ) -> Forecast | None:
        """Forecast the value of the next period, or return None if there are fewer than FEWEST earlier periods.

        Args:
            past: Value and standard error of each earlier period, newest last.
            se: Standard error of the value in the next period.
            smallest: Lower bound of the standard deviation between periods.
            weekdays: Weekdays of the past periods and of the next one, where Monday is 0. None if periods are not days.
        """
        if len(past) < FEWEST:
            return None
        value_P, se_P = np.array(past[-MOST:], dtype=np.float64).T
        typical = max(float(np.abs(value_P).mean()), 1e-12)
        variance_P = np.maximum(se_P**2, (1e-6 * typical) ** 2)
        # The columns stand for the mean, the weekend and each weekday. The last row stands for the next period.
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
        """Return the probability that the next value is at most `value`."""
        return float(stdtr(self.degrees, (value - self.mean) / self.sd)) if self.sd > 0.0 else float(value >= self.mean)

    def p_above(self, value: float) -> float:
        """Return the probability that the next value is at least `value`."""
        return float(stdtr(self.degrees, (self.mean - value) / self.sd)) if self.sd > 0.0 else float(value <= self.mean)

    def p_apart(self, value: float) -> float:
        """Return the probability that the next value is at least as far from the mean as `value`."""
        return min(1.0, 2.0 * min(self.p_below(value), self.p_above(value)))


def _columns(weekdays: Sequence[int] | None, periods: int, typical: float) -> tuple[Floats, Floats]:
    """Return the design matrix of the model, and the precision (1 / variance) of each column's prior."""
    if weekdays is None:
        return np.ones((periods + 1, 1)), np.zeros(1)
    weekday_Q = np.asarray(weekdays)
    each_Q7 = (weekday_Q[:, None] == np.arange(WEEK)).astype(np.float64)
    columns_QK = np.column_stack([np.ones(len(weekday_Q)), weekday_Q >= _SATURDAY, each_Q7])
    return columns_QK, np.array([0.0, (WEEKEND * typical) ** -2, *[0.0] * WEEK])


def _variances(value_P: Floats, variance_P: Floats, columns_PK: Floats, prior_K: Floats) -> tuple[float, float]:
    """Estimate the variance of a period's own deviation, and the variance between weekdays."""
    out_PP = _leaving_out(1.0 / variance_P, columns_PK[:, :2], prior_K[:2])
    between = max(0.0, _excess(out_PP, value_P, variance_P) / float(np.trace(out_PP)))
    each_P7 = columns_PK[:, 2:]
    seen_PS = each_P7[:, each_P7.any(axis=0)]
    if len(value_P) < 2 * WEEK or seen_PS.shape[1] <= np.linalg.matrix_rank(columns_PK[:, :2]):
        return between, 0.0  # too little data to separate weekdays from the weekend effect
    within_PP = _leaving_out(1.0 / variance_P, seen_PS, np.zeros(seen_PS.shape[1]))
    within = max(0.0, _excess(within_PP, value_P, variance_P) / float(np.trace(within_PP)))
    out_PP = _leaving_out(1.0 / (variance_P + within), columns_PK[:, :2], prior_K[:2])
    of_weekday = _excess(out_PP, value_P, variance_P + within) / float(np.trace(each_P7.T @ out_PP @ each_P7))
    return (within, of_weekday) if of_weekday > 0.0 else (between, 0.0)


def _leaving_out(weight_P: Floats, columns_PK: Floats, prior_K: Floats) -> Floats:
    """Return the matrix M for which y'My is the weighted sum of squared residuals after a regression of y."""
    weighted_PK = columns_PK * weight_P[:, None]
    inverse_KK = np.linalg.inv(columns_PK.T @ weighted_PK + np.diag(prior_K))
    return np.asarray(np.diag(weight_P) - weighted_PK @ inverse_KK @ weighted_PK.T)


def _excess(out_PP: Floats, value_P: Floats, variance_P: Floats) -> float:
    """Return how much larger the weighted sum of squared residuals is than the given variances imply."""
    return float(value_P @ out_PP @ value_P - np.diag(out_PP) @ variance_P)


def _of_neighbours(deviation_P: Floats, hat_PP: Floats) -> float:
    """Return the factor by which correlation between neighbouring periods increases the variance between periods."""
    squares = float(deviation_P @ deviation_P)
    r = float(deviation_P[1:] @ deviation_P[:-1]) / squares if squares > 0.0 else 0.0
    r += float(np.trace(hat_PP, offset=1)) / (len(deviation_P) - float(np.trace(hat_PP)))
    r = min(max(r, 0.0), _MOST_ALIKE)
    return (1.0 + r) / (1.0 - r)
