"""What earlier periods lead one to expect of the next one, of any measure with a standard error.

    forecast = Forecast.of(past, se=0.002)      # past: values and standard errors of earlier periods
    forecast.p_below(0.081)                     # how likely a value this low would be

Days differ by more than the chance of who came: by weekday, weather, what other campaigns run. So the forecast is that
of a random-effects model: a period's value = mean + a deviation of its own (variance tau^2, by DerSimonian and Laird,
1986) + sampling error. It is a t distribution with two degrees of freedom less than there are periods (Higgins,
Thompson and Spiegelhalter, 2009). Where neighbouring days are alike, one bad day tells of the next: with the
correlation r that was seen, tau^2 grows by (1 + r) / (1 - r), as the variance of a long mean does. Where days hardly
differ, or too few have been seen to tell, it is still as wide as SMALLEST of the mean: less than that is no news.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from mtorl.arrays import Floats

FEWEST, MOST = 7, 28
"""Periods that a forecast needs, and that it looks back."""
_MOST_ALIKE = 0.8
SMALLEST = 0.02
"""Standard deviation of a period, as a share of the mean, at least."""


@dataclass(frozen=True)
class Forecast:
    """Of the next period.

    Attributes:
        mean: Expected value.
        sd: Scale of the t distribution around it, the period's own standard error included.
        degrees: Its degrees of freedom.
    """

    mean: float
    sd: float
    degrees: int

    @classmethod
    def of(cls, past: Sequence[tuple[float, float]], se: float, smallest: float = 0.0) -> Forecast | None:
        """From earlier periods; None if they are fewer than FEWEST.

        Args:
            past: Value and standard error of each, the newest last; the last MOST count.
            se: Standard error of the period to come.
            smallest: Standard deviation of a period at least, in the measure's unit: a share of which days have none
                is not sure to have none for ever.
        """
        if len(past) < FEWEST:
            return None
        value_P, se_P = np.array(past[-MOST:], dtype=np.float64).T
        variance_P = np.maximum(se_P**2, (1e-6 * max(abs(float(value_P.mean())), 1e-12)) ** 2)
        weight_P = 1.0 / variance_P
        fixed = float(weight_P @ value_P / weight_P.sum())
        excess = float(weight_P @ (value_P - fixed) ** 2) - (len(value_P) - 1)
        scale = float(weight_P.sum() - (weight_P**2).sum() / weight_P.sum())
        between = max(0.0, excess / scale)
        random_P = 1.0 / (variance_P + between)
        mean = float(random_P @ value_P / random_P.sum())
        between *= _of_neighbours(value_P - mean)
        own = max(between, (SMALLEST * mean) ** 2, smallest**2)
        return cls(mean, math.sqrt(own + 1.0 / float(random_P.sum()) + se**2), len(value_P) - 2)

    def p_below(self, value: float) -> float:
        """Probability of a value as low as this one, or lower."""
        return float(t.cdf((value - self.mean) / self.sd, self.degrees)) if self.sd > 0.0 else float(value >= self.mean)

    def p_above(self, value: float) -> float:
        """Probability of a value as high as this one, or higher."""
        return float(t.sf((value - self.mean) / self.sd, self.degrees)) if self.sd > 0.0 else float(value <= self.mean)

    def p_apart(self, value: float) -> float:
        """Probability of a value as far from the mean as this one, or farther."""
        return min(1.0, 2.0 * min(self.p_below(value), self.p_above(value)))


def _of_neighbours(deviation_P: Floats) -> float:
    """How much more the variance of a long mean is than that of as many independent periods."""
    squares = float(deviation_P @ deviation_P)
    r = float(deviation_P[1:] @ deviation_P[:-1]) / squares if squares > 0.0 else 0.0
    r = min(max(r, 0.0), _MOST_ALIKE)
    return (1.0 + r) / (1.0 - r)
