"""Sequential detection of changes, with a known rate of false alarms over any number of periods.

    evidence = add(evidence, {"cost": e_of_p(0.003), "click": e_of_p(0.4)}, streams=2)
    alarming(evidence, streams=2)                     # streams that have changed

Each period gives every stream an *e-value*: a number that, given all earlier periods, is at most 1 on average as long
as nothing has changed. A stream's evidence is the Shiryaev-Roberts e-detector of Shin, Ramdas and Rinaldo,
"E-detectors: a nonparametric framework for sequential change detection", arXiv:2203.03532:

    M_t = (M_{t-1} + 1) e_t

M_t - t has no upward trend while nothing changes. So an alarm at M >= N comes after N periods or more on average (the
mean run). The mean of the M of J streams is such a detector, too, however the streams depend on each other. A stream
alarms if k streams have M >= J N / k (the e-BH rule of Wang and Ramdas, arXiv:2009.02824): then the mean is N at least,
so the mean run holds over all streams together, and a single stream needs more than one of many that move at once.

Evidence is bounded (`MOST`), so that an alarm ends some periods after its cause. A smaller M is evidence as well.
"""

import math
from collections.abc import Mapping

MEAN_RUN = 1_000  # periods until a false alarm, on average, at least: of days, nearly three years
MOST = 1.25  # bound of a stream's evidence, as a multiple of what it needs by itself
_SMALLEST_P = 1e-12


def e_of_p(p: float) -> float:
    """The e-value of a p-value: the mean of the calibrators k p^(k - 1) over k from 0 to 1 (Vovk and Wang, 2021)."""
    p = max(p, _SMALLEST_P)
    if p > 1 - 1e-6:
        return 0.5
    log = math.log(p)
    return (1.0 - p + p * log) / (p * log * log)


def e_of_event(happened: bool, probability: float) -> float:
    """The e-value of an event that has at most this probability while nothing has changed: half is bet on it."""
    return 0.5 + 0.5 * happened / probability


def needed(streams: int, mean_run: float = MEAN_RUN) -> float:
    """The evidence at which a stream alarms by itself."""
    return streams * mean_run


def add(
    evidence: Mapping[str, float], e_values: Mapping[str, float], streams: int, mean_run: float = MEAN_RUN
) -> dict[str, float]:
    """Evidence after one more period; a stream that was not judged in the period keeps its evidence."""
    most = MOST * needed(streams, mean_run)
    grown = {name: min((evidence.get(name, 0.0) + 1.0) * e, most) for name, e in e_values.items()}
    return {**evidence, **grown}


def alarming(evidence: Mapping[str, float], streams: int, mean_run: float = MEAN_RUN) -> tuple[str, ...]:
    """The streams that have changed, those with most evidence first."""
    ranked = sorted(evidence, key=lambda name: -evidence[name])
    for k in range(len(ranked), 0, -1):
        if evidence[ranked[k - 1]] >= needed(streams, mean_run) / k:
            return tuple(ranked[:k])
    return ()
