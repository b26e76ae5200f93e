"""A store that knows nobody is told from a user who is new."""

from __future__ import annotations

import pytest

from serving.router.ops import health as probes
from serving.router.ops.health import FoundFeatures, Health
from tests.serving.router_fixtures import Harness, instance, sample, with_router


def test_nobody_known_for_a_while_is_said_and_one_known_user_takes_it_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(probes, "monotonic", lambda: now)
    health = Health()
    health.report("features")
    features = FoundFeatures(health)
    for _ in range(1000):  # a burst about new users
        features.count(False)
    assert health.parts["features"] == "ok"
    features.count(True)
    now = 3600.0
    for _ in range(49):  # few decisions in an hour
        features.count(False)
    assert health.parts["features"] == "ok" and not caplog.records
    features.count(False)
    assert health.parts["features"].startswith("none found for 50 decisions in 3600 s")
    features.count(False)
    assert len(caplog.records) == 1
    features.count(True)
    assert health.parts["features"] == "ok"


@with_router()
async def test_decisions_are_counted_by_whether_a_history_was_found(
    h: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "_NONE_SECONDS", 0.0)
    before = {found: sample("mtorl_features_total", found=found) for found in ("yes", "no")}
    await h.predict(instance("u1"), *(instance(f"stranger-{i}") for i in range(3)))
    assert sample("mtorl_features_total", found="yes") == before["yes"] + 1
    assert sample("mtorl_features_total", found="no") == before["no"] + 3
    h.features.users.clear()  # the store is emptied
    answers = await h.predict(*(instance(f"u{i}") for i in range(60)))
    assert all(answer["fallback_reason"] is None for answer in answers)  # decisions go on
    ready = await h.client.get("/health/ready")
    assert ready.status_code == 200 and ready.json()["parts"]["features"].startswith("none found for 63 decisions")
