"""The lease of the leader: taken where it is free, left where it is held, lost where it can't be renewed."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from pipelines.experiments.operator import lease
from pipelines.experiments.operator.lease import Lease
from serving.kubernetes_api import Conflict, KubernetesApi, Refused, Unanswered
from tests.repository import ROOT


class Leases:
    """The API server, which has one lease."""

    namespace = "ads"

    def __init__(self) -> None:
        self.kept: dict[str, Any] | None = None
        self.away = False

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        assert (kind, name) == ("leases", "mtorl-operator")
        if self.away:
            raise Unanswered("timed out")
        return self.kept

    def create(self, kind: str, body: dict[str, Any]) -> None:
        if self.kept is not None:
            raise Conflict("it is there")
        self.kept = body

    def replace(self, kind: str, name: str, body: dict[str, Any]) -> None:
        self.kept = body


def of(leases: Leases, holder: str) -> Lease:
    return Lease(cast(KubernetesApi, leases), "mtorl-operator", holder)


def test_one_operator_leads_and_another_follows_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases()
    first, second = of(leases, "a_1"), of(leases, "b_1")
    assert first._try() and not second._try() and second.leader == "a_1"
    assert leases.kept is not None
    since = leases.kept["spec"]["acquireTime"]
    assert first._try() and leases.kept["spec"]["acquireTime"] == since < leases.kept["spec"]["renewTime"]
    first.release()
    assert second._try() and leases.kept["spec"]["holderIdentity"] == "b_1"
    now = time.monotonic()
    assert not first._try()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)  # the second has died: nothing was renewed since
    assert first._try() and leases.kept["spec"]["holderIdentity"] == "a_1"


def test_a_lease_that_can_not_be_renewed_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RENEW", 0.05), ("GIVE_UP", 0.3)):
        monkeypatch.setattr(lease, f"_{name}_SECONDS", seconds)
    leases, ended = Leases(), []
    leases.away = True
    held = of(leases, "a_1")
    held.on_loss(lambda: ended.append(True))
    held._renew()
    assert ended


def test_the_runbook_has_the_words_of_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    class Denied(Leases):
        def get(self, kind: str, name: str) -> dict[str, Any] | None:
            raise Refused(403, "leases is forbidden")

    assert not of(Denied(), "a")._try()
    words, _, _ = caplog.messages[-1].partition("leases is forbidden")
    assert f"| `{words}" in (ROOT / "docs" / "runbooks" / "MtorlOperatorDown.md").read_text()
