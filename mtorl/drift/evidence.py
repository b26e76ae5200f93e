"""Detects changes over a sequence of periods, with a known rate of false alarms over any number of periods.

    evidence = add(evidence, {"cost": e_of_p(0.003), "click": e_of_p(0.4)}, streams=2)
    alarming(evidence, streams=2)                     # streams that have changed

In each period, every stream has an *e-value*: a number whose mean, given all earlier periods, is at most 1 as long as
nothing has changed. A stream's evidence is the Shiryaev-Roberts e-detector of Shin, Ramdas and Rinaldo, "E-detectors: a
nonparametric framework for sequential change detection", arXiv:2203.03532:

    M_t = (M_{t-1} + 1) e_t

As long as nothing changes, M_t - t has no upward trend. So with an alarm at M >= N, the mean time until a false alarm
(the mean run) is at least N periods. The mean of the M of J streams is also such a detector, for any dependence between
streams. If k streams have M >= J N / k, these streams alarm (the e-BH rule of Wang and Ramdas, arXiv:2009.02824). Then
the mean is at least N, so the mean run holds for all streams together. A stream that changes alone needs more evidence.

Evidence is bounded by `MOST`, so that an alarm ends a few periods after its cause. A bounded M is still valid evidence.
"""

import math
from collections.abc import Mapping

MEAN_RUN = 1_000  # least mean number of periods until a false alarm; nearly three years if periods are days
MOST = 1.25  # bound of a stream's evidence, as a multiple of the evidence that alarms without other streams
_SMALLEST_P = 1e-12


def e_of_p(p: float) -> float:
    """Return the e-value of a p-value: the mean of the calibrators k p^(k - 1) for k in [0, 1] (Vovk, Wang 2021)."""
    p = max(p, _SMALLEST_P)
    if p > 1 - 1e-6:
        return 0.5
    log = math.log(p)
    return (1.0 - p + p * log) / (p * log * log)


def e_of_event(happened: bool, probability: float) -> float:
    """Return the e-value of betting half of the stake on an event with, without a change, at most this probability."""
    return 0.5 + 0.5 * happened / probability


def needed(streams: int, mean_run: float = MEAN_RUN) -> float:
    """Return the evidence at which a single stream alarms."""
    return streams * mean_run


def add(
    evidence: Mapping[str, float], e_values: Mapping[str, float], streams: int, mean_run: float = MEAN_RUN
) -> dict[str, float]:
    """Return the evidence after one more period; a stream without an e-value keeps its evidence."""
    most = MOST * needed(streams, mean_run)
    grown = {name: min((evidence.get(name, 0.0) + 1.0) * e, most) for name, e in e_values.items()}
    return {**evidence, **grown}


def alarming(evidence: Mapping[str, float], streams: int, mean_run: float = MEAN_RUN) -> tuple[str, ...]:
    """Return the streams that have changed, in descending order of evidence."""
    ranked = sorted(evidence, key=lambda name: -evidence[name])
    for k in range(len(ranked), 0, -1):
        if evidence[ranked[k - 1]] >= needed(streams, mean_run) / k:
            return tuple(ranked[:k])
    return ()
