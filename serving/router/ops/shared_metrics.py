"""Metrics of a router of several processes: any of them answers for all.

Each worker leaves its metrics in a file every second, and whoever is asked leaves its own first, then reads all: what
was shown once never goes back. Counters and histograms are added up. A worker that is started again goes on from its
file, so they are whole after a crash, but for the last second. Each worker's gauges have its number as the label
`worker`, and are left out once they are old: it hangs, or is gone.

The Prometheus client has a way of its own for this. It can't take back the labels of a gauge, as of an arm that was
renamed, and each count writes to a mapped file.
"""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from mtorl.runtime.files import replacing

_OLD_SECONDS = 10.0
_ADDED = ("counter", "histogram", "summary")


class SharedMetrics(Collector):
    """The metrics of all workers, as one of them tells them.

    Args:
        folder: Of the files; one that is fresh when the router starts.
        worker: Number of this worker.
        own: Its metrics.
    """

    def __init__(self, folder: Path, worker: int, own: CollectorRegistry = REGISTRY) -> None:
        self._folder = folder
        self._file = folder / f"{worker}.pickle"
        self._own = own
        self._lock = threading.Lock()
        before = _read(self._file) if self._file.exists() else []
        self._before = [family for family in before if family.type in _ADDED]

    def publish(self) -> list[Metric]:
        """Leave this worker's metrics for the others; returns them."""
        with self._lock:
            families = self._mine()
            with replacing(self._file) as unfinished:
                unfinished.write_bytes(pickle.dumps(families))
            return families

    def _mine(self) -> list[Metric]:
        return _added([*self._before, *self._own.collect()])

    def collect(self) -> Iterator[Metric]:
        """The metrics of all workers."""
        try:
            mine = self.publish()
        except OSError:  # a full disk: just then somebody will want to know how this worker does
            mine = self._mine()
        found: list[Metric] = []
        for file in sorted({self._file, *self._folder.glob("*.pickle")}):
            fresh = file == self._file or time.time() - file.stat().st_mtime < _OLD_SECONDS
            for family in mine if file == self._file else _read(file):
                if family.type not in _ADDED:
                    family.samples = [
                        sample._replace(labels={**sample.labels, "worker": file.stem}) for sample in family.samples
                    ]
                if family.type in _ADDED or fresh:
                    found.append(family)
        return iter(_added(found))


def _read(file: Path) -> list[Metric]:
    families: list[Metric] = pickle.loads(file.read_bytes())
    return families


def _added(families: Iterable[Metric]) -> list[Metric]:
    """One family of each name: samples with the same labels are added up. When they were created is left out."""
    found: dict[str, tuple[Metric, dict[tuple[str, frozenset[tuple[str, str]]], Sample]]] = {}
    for family in families:
        _, samples = found.setdefault(family.name, (copy.copy(family), {}))
        for sample in family.samples:
            if family.type in _ADDED and sample.name.endswith("_created"):
                continue
            key = sample.name, frozenset(sample.labels.items())
            before = samples.get(key)
            samples[key] = sample._replace(value=sample.value + (before.value if before else 0.0), exemplar=None)
    for family, samples in found.values():
        family.samples = list(samples.values())
    return [family for family, _ in found.values()]
