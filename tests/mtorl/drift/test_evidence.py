import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from mtorl.arrays import Floats
from mtorl.drift.evidence import MEAN_RUN, MOST, add, alarming, e_of_event, e_of_p, needed

NAMES = [f"s{i}" for i in range(12)]
EVIDENCE = st.dictionaries(st.sampled_from(NAMES), st.floats(0.0, 1e7), min_size=1)


def test_e_values_average_one_at_most() -> None:
    # Integrate over log p, because most of the integral is near p = 0.
    average, _ = quad(lambda x: e_of_p(math.exp(x)) * math.exp(x), math.log(1e-14), 0.0, limit=500)
    assert 0.9 < average <= 1.0 + 1e-9
    assert e_of_p(0.0) == e_of_p(1e-12) and e_of_p(1.0) == 0.5
    assert e_of_p(1 - 1e-5) == pytest.approx(0.5, abs=1e-3), "continuous where the formula ends"
    for probability in (0.001, 0.02, 0.5, 1.0):
        happened, not_ = e_of_event(True, probability), e_of_event(False, probability)
        assert probability * happened + (1 - probability) * not_ == pytest.approx(1.0)
        assert not_ < 1.0 <= happened


def test_smaller_p_values_are_more_evidence() -> None:
    values = [e_of_p(p) for p in np.geomspace(1e-12, 1.0, 500)]
    assert all(more >= less for more, less in itertools.pairwise(values))


@given(EVIDENCE, st.integers(0, 20), st.floats(1.0, 1e5))
def test_an_alarm_means_that_mean_evidence_is_large(evidence: dict[str, float], further: int, mean_run: float) -> None:
    streams = len(evidence) + further
    found = alarming(evidence, streams, mean_run)
    if found:
        assert sum(evidence.values()) / streams >= mean_run * (1 - 1e-12)
        weakest = min(evidence[name] for name in found)
        assert weakest >= needed(streams, mean_run) / len(found)
        assert {name for name in evidence if evidence[name] > weakest} <= set(found), "the strongest streams are found"
    elif evidence:
        assert max(evidence.values()) < needed(streams, mean_run)


@given(EVIDENCE, st.sampled_from(NAMES), st.floats(0.0, 1e7))
def test_more_evidence_takes_no_alarm_away(evidence: dict[str, float], name: str, more: float) -> None:
    streams = len(NAMES)
    grown = {**evidence, name: evidence.get(name, 0.0) + more}
    assert set(alarming(evidence, streams)) <= set(alarming(grown, streams))


@given(EVIDENCE, st.sampled_from(NAMES), st.floats(0.0, 1e3))
def test_only_judged_streams_gain_evidence(evidence: dict[str, float], name: str, e_value: float) -> None:
    grown = add(evidence, {name: e_value}, streams=len(NAMES))
    assert grown[name] == min((evidence.get(name, 0.0) + 1.0) * e_value, MOST * needed(len(NAMES)))
    assert {other: grown[other] for other in grown if other != name} == {
        other: evidence[other] for other in evidence if other != name
    }


@pytest.mark.parametrize(("streams", "alike"), [(1, False), (8, False), (40, False), (8, True), (40, True)])
def test_false_alarms_are_as_rare_as_promised(streams: int, alike: bool) -> None:
    run_R = _runs(streams, alike, MEAN_RUN, runs=300 if streams == 1 else 60, most=3_000)
    assert run_R.mean() - 3 * run_R.std() / math.sqrt(len(run_R)) >= MEAN_RUN
    # Check that this test can fail: a detector with ten times as many false alarms must violate the bound.
    if streams == 1:
        assert _runs(streams, alike, MEAN_RUN / 10, runs=300, most=3_000).mean() < MEAN_RUN


def test_the_simulation_equals_the_module() -> None:
    rng = np.random.default_rng(3)
    e_TRJ = _e_of_p(rng.random((400, 1, 5)) ** 3)
    evidence: dict[str, float] = {}
    period = 0
    for e_J in e_TRJ[:, 0]:
        period += 1
        evidence = add(evidence, {NAMES[j]: float(e) for j, e in enumerate(e_J)}, 5)
        if alarming(evidence, 5):
            break
    assert _first_alarms(e_TRJ, MEAN_RUN)[0] == period < 400
    assert _e_of_p(np.array([1e-9, 0.2, 0.9])) == pytest.approx([e_of_p(p) for p in (1e-9, 0.2, 0.9)])


def test_a_strong_change_is_found_in_two_periods_and_the_alarm_ends() -> None:
    rng, evidence, judged = np.random.default_rng(2), dict[str, float](), NAMES[:8]
    found: list[tuple[str, ...]] = []
    for period in range(80):
        p = {name: float(rng.random()) for name in judged}
        if 30 <= period < 50:
            p["s3"] = 1e-6
        evidence = add(evidence, {name: e_of_p(value) for name, value in p.items()}, len(judged))
        found.append(alarming(evidence, len(judged)))
    assert not any(found[:30])
    assert found[31] == ("s3",) and all(found[31:50])
    assert not any(found[60:]), "evidence is bounded, so an alarm ends"


def test_streams_that_change_together_need_less_evidence_each() -> None:
    evidence = dict.fromkeys(NAMES[:4], needed(8) / 4)
    assert set(alarming(evidence, 8)) == set(NAMES[:4])
    assert alarming({**evidence, "s0": 0.0}, 8) == ()
    assert alarming({}, 8) == ()


def _runs(streams: int, alike: bool, mean_run: float, runs: int, most: int) -> Floats:
    rng = np.random.default_rng(streams)
    p_TRJ = rng.random((most, runs, 1 if alike else streams))
    return _first_alarms(np.broadcast_to(_e_of_p(p_TRJ), (most, runs, streams)), mean_run)


def _e_of_p(p: Floats) -> Floats:
    log = np.log(p)
    return np.asarray((1.0 - p + p * log) / (p * log * log))


def _first_alarms(e_TRJ: Floats, mean_run: float) -> Floats:
    """Return the period of each run's first alarm, or T if there is none. T: periods, R: runs, J: streams."""
    most, runs, streams = e_TRJ.shape
    m_RJ, first_R = np.zeros((runs, streams)), np.full(runs, float(most))
    threshold_J = needed(streams, mean_run) / np.arange(1, streams + 1)
    for period in range(most):
        m_RJ = np.minimum((m_RJ + 1.0) * e_TRJ[period], MOST * needed(streams, mean_run))
        ranked_RJ = -np.sort(-m_RJ, axis=1) if m_RJ.sum() >= mean_run * streams else m_RJ * 0.0
        alarm_R = (ranked_RJ >= threshold_J).any(axis=1) & (first_R == most)
        first_R[alarm_R] = period + 1
    return first_R
