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

# On average, there are at least this many periods between two false alarms. 1,000 days are nearly three years.
MEAN_RUN = 1_000
# The evidence of a stream is cut off at this multiple of the evidence that raises an alarm without the help of other
# streams.
MOST = 1.25
_SMALLEST_P = 1e-12


def e_of_p(p: float) -> float:
    """Convert a p-value to an e-value, which is large if the p-value is small.

    As long as nothing has changed, the mean of the e-value is at most 1. The e-value is the average of the calibrators
    k p^(k - 1) over k in [0, 1] (Vovk and Wang 2021).
    """
    p = max(p, _SMALLEST_P)
    if p > 1 - 1e-6:
        return 0.5
    log = math.log(p)
    return (1.0 - p + p * log) / (p * log * log)


def e_of_event(happened: bool, probability: float) -> float:
    """Return the e-value of a period in which an event did or did not happen.

    The e-value is the payout of a bet with a stake of 1. Half of the stake is kept. The other half is lost if the event
    does not happen, and otherwise multiplied by 1 / probability.

    Args:
        happened: Whether the event happened in the period.
        probability: Upper bound of the event's probability if nothing has changed.
    """
    return 0.5 + 0.5 * happened / probability


def needed(streams: int, mean_run: float = MEAN_RUN) -> float:
    """Return the evidence that raises an alarm for a stream if no other stream raises one.

    Args:
        streams: Number of streams that are watched together.
        mean_run: On average, a false alarm of any stream comes after at least this many periods.
    """
    return streams * mean_run


def add(
    evidence: Mapping[str, float], e_values: Mapping[str, float], streams: int, mean_run: float = MEAN_RUN
) -> dict[str, float]:
    """Return the evidence of each stream after one more period.

    Args:
        evidence: Evidence of each stream before the period.
        e_values: The e-value of each stream in the period. A stream without an e-value keeps its evidence.
        streams: Number of streams that are watched together.
        mean_run: On average, a false alarm of any stream comes after at least this many periods.
    """
    most = MOST * needed(streams, mean_run)
    grown = {name: min((evidence.get(name, 0.0) + 1.0) * e, most) for name, e in e_values.items()}
    return {**evidence, **grown}


def alarming(evidence: Mapping[str, float], streams: int, mean_run: float = MEAN_RUN) -> tuple[str, ...]:
    """Return the streams whose evidence is high enough to raise an alarm, in descending order of evidence."""
    ranked = sorted(evidence, key=lambda name: -evidence[name])
    for k in range(len(ranked), 0, -1):
        if evidence[ranked[k - 1]] >= needed(streams, mean_run) / k:
            return tuple(ranked[:k])
    return ()
