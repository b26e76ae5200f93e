"""Detects changes over a sequence of periods, with a known rate of false alarms over any number of periods.

    evidence = add(evidence, {"cost": e_of_p(0.003), "click": e_of_p(0.4)}, streams=2)
    alarming(evidence, streams=2)                     # streams that have changed

A stream is a measure that is checked in every period. While nothing changes, its e-value e has a mean of at most 1. The
evidence M is the Shiryaev-Roberts e-detector (Shin, Ramdas and Rinaldo, arXiv:2203.03532):

    M_t = (M_{t-1} + 1) e_t

With alarms at M >= N, the mean time until a false alarm is at least N periods. Of J streams, k streams raise an alarm
together if each has M >= J N / k (the e-BH rule, Wang and Ramdas, arXiv:2009.02824).
"""

import math
from collections.abc import Mapping

# lower bound of the mean number of periods between two false alarms; 1,000 days are nearly three years
MEAN_RUN = 1_000
# upper bound of a stream's evidence, as a multiple of `needed`, so that an alarm ends soon after its cause
MOST = 1.25
_SMALLEST_P = 1e-12


def e_of_p(p: float) -> float:
    """Convert a p-value to an e-value by the mean of calibrators k p^(k - 1) (Vovk and Wang 2021)."""
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
    """Return the evidence that raises an alarm for a stream if no other stream raises one.

    Args:
        mean_run: Lower bound of the mean number of periods until a false alarm of any stream.
    """
    return streams * mean_run


def add(
    evidence: Mapping[str, float], e_values: Mapping[str, float], streams: int, mean_run: float = MEAN_RUN
) -> dict[str, float]:
    """Return the evidence of each stream after one more period.

    Args:
        e_values: The e-value of each stream in the period. A stream without e-value keeps its evidence.
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
