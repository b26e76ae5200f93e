"""Detects changes over a sequence of periods, with a known rate of false alarms over any number of periods.

    evidence = add(evidence, {"cost": e_of_p(0.003), "click": e_of_p(0.4)}, streams=2)
    alarming(evidence, streams=2)                     # streams that have changed

A stream is a measure that is checked in every period, such as the mean cost. In each period, it has an *e-value*: a
number whose expected value, given all earlier periods, is at most 1 as long as nothing has changed. The evidence M of a
stream is the Shiryaev-Roberts e-detector of Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for
sequential change detection", arXiv:2203.03532:

    M_t = (M_{t-1} + 1) e_t

As long as nothing changes, M_t - t has no upward trend. So if an alarm is raised at M >= N, the mean time until a false
alarm (the mean run) is at least N periods. The mean of M over J streams has the same property, even if the streams
depend on each other. If k streams have M >= J N / k, these streams raise an alarm (the e-BH rule of Wang and Ramdas,
arXiv:2009.02824). The mean of M over all streams is then at least N, so the mean run holds for all streams together. A
stream that changes alone needs more evidence than streams that change together.

Evidence is limited by `MOST`, so that an alarm ends a few periods after its cause. A limited M is still valid evidence.
"""

import math
from collections.abc import Mapping

# Lower bound of the mean number of periods between two false alarms. For daily periods, it is nearly three years.
MEAN_RUN = 1_000
# A stream's evidence is at most this multiple of `needed`, so that an alarm ends soon after its cause.
MOST = 1.25
_SMALLEST_P = 1e-12


def e_of_p(p: float) -> float:
    """Convert a p-value to an e-value: the mean of k p^(k - 1) over all k from 0 to 1 (Vovk and Wang 2021)."""
    p = max(p, _SMALLEST_P)
    if p > 1 - 1e-6:
        return 0.5
    log = math.log(p)
    return (1.0 - p + p * log) / (p * log * log)


def e_of_event(happened: bool, probability: float) -> float:
    """Return the e-value of an event: 0.5 if it did not happen, and 0.5 + 0.5 / probability if it happened.

    Args:
        probability: Upper bound of the event's probability if nothing has changed.
    """
    return 0.5 + 0.5 * happened / probability


def needed(streams: int, mean_run: float = MEAN_RUN) -> float:
    """Return the evidence at which a single stream raises an alarm.

    Args:
        mean_run: Lower bound of the mean number of periods until a false alarm of any stream.
    """
    return streams * mean_run


def add(
    evidence: Mapping[str, float], e_values: Mapping[str, float], streams: int, mean_run: float = MEAN_RUN
) -> dict[str, float]:
    """Return the evidence of each stream after one more period.

    Args:
        e_values: The e-value of each stream that was measured in the period. Other streams keep their evidence.
    """
    most = MOST * needed(streams, mean_run)
    grown = {name: min((evidence.get(name, 0.0) + 1.0) * e, most) for name, e in e_values.items()}
    return {**evidence, **grown}


def alarming(evidence: Mapping[str, float], streams: int, mean_run: float = MEAN_RUN) -> tuple[str, ...]:
    """Return the streams whose evidence raises an alarm, in descending order of evidence."""
    ranked = sorted(evidence, key=lambda name: -evidence[name])
    for k in range(len(ranked), 0, -1):
        if evidence[ranked[k - 1]] >= needed(streams, mean_run) / k:
            return tuple(ranked[:k])
    return ()
