import sys
import time
from typing import Any

import pytest

from pipelines.experiments.operator import lease
from pipelines.experiments.operator.lease import Lease
from tests.pipelines.experiments.fake_cluster import FakeCluster


def of(cluster: FakeCluster, holder: str) -> Lease:
    made = Lease(cluster)
    made._holder = holder
    return made


def kept(cluster: FakeCluster) -> dict[str, Any]:
    spec: dict[str, Any] = cluster.kept["leases"]["mtorl-operator"]["spec"]
    return spec


def test_another_operator_leads_when_the_leader_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    first, second = of(cluster, "a_1"), of(cluster, "b_1")
    assert first._try() and not second._try() and second.leader == "a_1"
    since = kept(cluster)["acquireTime"]
    assert first._try() and kept(cluster)["acquireTime"] == since < kept(cluster)["renewTime"]
    first.release()
    assert second._try() and kept(cluster)["holderIdentity"] == "b_1"
    now = time.monotonic()
    assert not first._try()
    # The second operator is dead by now, so its lease has expired.
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    assert first._try() and kept(cluster)["holderIdentity"] == "a_1"


def test_a_lease_that_can_not_be_renewed_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RENEW", 0.05), ("GIVE_UP", 0.3)):
        monkeypatch.setattr(lease, f"_{name}_SECONDS", seconds)
    cluster = FakeCluster()
    cluster.away = True
    monkeypatch.setattr(lease.os, "_exit", sys.exit)
    with pytest.raises(SystemExit):
        of(cluster, "a_1")._renew()
