"""Elects one of several operators as the leader, with a Kubernetes Lease.

Even two leaders would do no harm, because the API server refuses a write to an object that has changed since the read.
"""

import logging
import os
import socket
import threading
import time
import uuid

from pipelines.experiments.cluster_api import micro_time
from serving.kubernetes_api import Conflict, KubernetesApi

log = logging.getLogger(__name__)
ANSWER_SECONDS = (2.0, 2.0)
"""Timeouts in seconds for connecting and for an answer, in requests about the lease. They are short, so that the holder
notices a failure before the lease expires."""
_NAME = "mtorl-operator"
# A lease that is not renewed expires after this time.
_HELD_SECONDS = 15
_RENEW_SECONDS = 3.0
# The leader exits before its lease expires.
_GIVE_UP_SECONDS = 10.0


class Lease:
    """A Lease of coordination.k8s.io, for which this process competes with other operators."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self.namespace = api.namespace
        self._holder = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self._seen: tuple[tuple[str | None, str | None], float] = ((None, None), -1.0)
        self._said = ""
        self.leads = False
        self.leader = ""

    def wait(self) -> None:
        """Wait until this process holds the lease. A background thread then renews it."""
        said = False
        while not self._try():
            if not said:
                log.info("stands by: %s holds the lease %s", self.leader or "none yet", _NAME)
                said = True
            time.sleep(1.0)
        self.leads = True
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def release(self) -> None:
        """Release the lease, so that the next operator becomes the leader at once."""
        try:
            found = self._api.get("leases", _NAME)
            if found is not None and found["spec"].get("holderIdentity") == self._holder:
                self._api.replace("leases", _NAME, {**found, "spec": {**found["spec"], "holderIdentity": None}})
        # Ignore all errors, because the process is about to exit.
        except Exception as error:
            log.info("the lease could not be released: %s", error)

    def _renew(self) -> None:
        held = time.monotonic()
        while True:
            time.sleep(_RENEW_SECONDS)
            if self._try():
                held = time.monotonic()
            elif time.monotonic() - held > _GIVE_UP_SECONDS:
                log.error("the lease %s could not be renewed: this operator exits", _NAME)
                os._exit(1)

    def _try(self) -> bool:
        try:
            return self._take()
        # The network or the API server has failed, or another operator was faster.
        except Exception as error:
            words = str(error).splitlines()[0]
            if words != self._said and not isinstance(error, Conflict):
                log.warning("the lease %s: %s", _NAME, words)
                self._said = words
            return False

    def _take(self) -> bool:
        now = micro_time()
        times = {"acquireTime": now, "renewTime": now}
        spec = {"holderIdentity": self._holder, "leaseDurationSeconds": _HELD_SECONDS, **times}
        found = self._api.get("leases", _NAME)
        if found is None:
            kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": _NAME}}
            self._api.create("leases", {**kind, "spec": spec})
            return True
        held = found.get("spec") or {}
        self.leader = held.get("holderIdentity") or ""
        if self.leader not in ("", self._holder) and not self._is_stale(self.leader, held.get("renewTime")):
            return False
        if self.leader == self._holder:
            spec["acquireTime"] = held.get("acquireTime")
        self._api.replace("leases", _NAME, {**found, "spec": spec})
        return True

    def _is_stale(self, holder: str, renewed: str | None) -> bool:
        """Return whether the lease has expired by this process's own clock, because the clocks of nodes may differ."""
        now = time.monotonic()
        if self._seen[0] != (holder, renewed):
            self._seen = (holder, renewed), now
        return now - self._seen[1] > _HELD_SECONDS
