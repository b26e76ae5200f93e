"""Tests of finding the models that decided in a log, and those that still serve."""

from pathlib import Path

import pandas as pd
import pytest

from monitoring.models_in_log import models_in_log
from tests.lakes import upload
from tests.monitoring.written_log import Log

NEW, OLD, OTHER = "b" * 64, "a" * 64, "c" * 64


@pytest.fixture
def log(tmp_path: Path) -> Log:
    written = Log()
    written.decide("u1", "incumbent", model_digest=OLD)
    written.decide("u2", "challenger", model_digest=NEW)
    written.decide("u1", "incumbent", model_digest=NEW)
    written.write(tmp_path)
    return written


def uses(folder: Path) -> dict[tuple[str, str], bool]:
    return {(name, reason): serves for name, reason, serves in models_in_log(str(folder))}


def test_the_newest_model_of_an_arm_serves_and_older_ones_are_needed(log: Log, tmp_path: Path) -> None:
    assert uses(tmp_path) == {
        (NEW, "decides as incumbent of test, last 2025-03-01 00:02"): True,
        (NEW, "decides as challenger of test, last 2025-03-01 00:01"): True,
        (OLD, "decided as incumbent of test, last 2025-03-01 00:00"): False,
    }
    assert models_in_log(str(tmp_path))[0][1].startswith("decides as incumbent"), "newest first"


def test_a_model_no_longer_serves_once_a_policy_without_a_model_decides(log: Log, tmp_path: Path) -> None:
    log.decide("u1", "incumbent", model_digest=None)
    log.decide("u2", "challenger", model_digest=None, fallback_reason="model_timeout")
    log.write(tmp_path)
    serving = {name for (name, reason), serves in uses(tmp_path).items() if serves}
    assert serving == {NEW}
    assert {reason.split()[2] for (_, reason), serves in uses(tmp_path).items() if serves} == {"challenger"}


def test_an_arm_that_is_silent_for_a_day_no_longer_serves(log: Log, tmp_path: Path) -> None:
    log.decide("u1", "incumbent", experiment="next", model_digest=OTHER, event_time="2025-03-03T00:00:00+00:00")
    log.write(tmp_path)
    assert {name for (name, _), serves in uses(tmp_path).items() if serves} == {OTHER}


def test_shadow_decisions_of_a_challenger_count(log: Log, tmp_path: Path) -> None:
    shadow = {"shadow_id": "s1", "decision_id": "d2", "experiment": "test", "arm": "late", "model_digest": OTHER}
    upload(tmp_path, {"shadow": pd.DataFrame([{**shadow, "event_time": "2025-03-01T00:03:00+00:00"}])})
    assert uses(tmp_path)[OTHER, "decides as late of test, last 2025-03-01 00:03"]


def test_without_a_log_no_model_is_listed(tmp_path: Path) -> None:
    assert models_in_log("") == [] and models_in_log(str(tmp_path)) == []
