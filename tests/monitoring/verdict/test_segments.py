import json
from pathlib import Path

import numpy as np
import pytest

from monitoring.verdict.segments import MOST, segment_lifts
from monitoring.verdict.verdict import CLICK, verdict_from_log
from mtorl.experiment.experiment import Experiment
from tests.monitoring.judged_experiment import CONTENT
from tests.monitoring.written_log import Log

EXPERIMENT = Experiment.from_dict(CONTENT)
DEVICE = {"device": "json_extract_string(record.context, '$.device')"}


def traffic(devices: dict[str | None, tuple[float, float]], users: int = 800, seed: int = 0) -> Log:
    """Return a log with two decisions per user, both on the same device.

    `devices` maps a device to the click rates of the incumbent and the challenger.
    """
    rng, log, names = np.random.default_rng(seed), Log(), list(devices)
    for user in range(users):
        device = names[user // 2 % len(names)]
        for _ in range(2):
            arm = ("incumbent", "challenger")[user % 2]
            decision = log.decide(f"u{user}", arm, context=json.dumps({"device": device}))
            log.learn(decision, "cost", 0.2)
            if rng.random() < devices[device][user % 2]:
                log.learn(decision, "click", 1.0)
    return log


def test_a_challenger_that_gains_in_one_segment_and_loses_in_the_other(tmp_path: Path) -> None:
    log = traffic({"phone": (0.1, 0.6), "tv": (0.6, 0.1)}, 1200).write(tmp_path)
    found = segment_lifts(log, EXPERIMENT, CLICK, DEVICE)
    lifts = {lift["segment"]: lift for lift in found["lifts"]["device"]}
    assert lifts["phone"]["lift_ci"] and lifts["phone"]["lift_ci"][0] > 0.2
    assert lifts["tv"]["lift_ci"] and lifts["tv"]["lift_ci"][1] < -0.2
    assert found["confidence"] == pytest.approx(1 - EXPERIMENT.alpha / (MOST + 1))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_segment_of_all_users_has_the_verdicts_lift_with_a_wider_interval(tmp_path: Path) -> None:
    log = traffic({"phone": (0.2, 0.3)}).write(tmp_path)
    (lift,) = segment_lifts(log, EXPERIMENT, CLICK, DEVICE)["lifts"]["device"]
    verdict = verdict_from_log(log, EXPERIMENT)
    assert lift["lift"] == pytest.approx(verdict["lift"]) and lift["users"] == 800
    assert lift["lift_ci"] and lift["lift_ci"][0] < verdict["lift_ci"][0] < verdict["lift_ci"][1] < lift["lift_ci"][1]


def test_left_out_segments_are_reported_and_few_users_give_no_lift(tmp_path: Path) -> None:
    log = traffic({f"d{n}": (0.2, 0.2) for n in range(MOST + 2)} | {None: (0.2, 0.2)}, 600).write(tmp_path)
    found = segment_lifts(log, EXPERIMENT, CLICK, DEVICE)
    lifts = found["lifts"]["device"]
    assert len(lifts) == MOST + 1 and lifts[-1]["segment"] is None and lifts[-1]["lift_ci"] is None
    assert sum(lift["decisions"] for lift in lifts) + found["smaller"]["device"] == 1200


def test_a_user_in_two_arms_counts_in_neither_and_one_in_two_segments_in_both(tmp_path: Path) -> None:
    log = traffic({"phone": (0.2, 0.2), "tv": (0.2, 0.2)}, 8)
    log.decide("u0", "challenger", context=json.dumps({"device": "tv"}))  # earlier with the incumbent, on a phone
    log.decide("u1", "challenger", context=json.dumps({"device": "tv"}))
    found = segment_lifts(log.write(tmp_path), EXPERIMENT, CLICK, DEVICE)
    counts = {lift["segment"]: (lift["users"], lift["decisions"]) for lift in found["lifts"]["device"]}
    assert counts == {"phone": (3, 6), "tv": (5, 9)}
