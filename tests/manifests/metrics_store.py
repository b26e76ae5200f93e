"""A Prometheus of this machine, filled from a text with times."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from serving.local.ports import free_ports
from tests.manifests.alerting_stack import process, program


class Answer(NamedTuple):
    """What Prometheus answers: series, and what it finds odd about the query."""

    series: list[dict[str, Any]]
    remarks: list[str]


class Store:
    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> dict[str, Any]:
        """A request to its API; an error of Prometheus says the query."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        return found

    def instant(self, query: str, at: float) -> Answer:
        return _answer(self.ask("/api/v1/query", query=query, time=str(at)))

    def over_time(self, query: str, start: float, end: float, step: float = 60.0) -> Answer:
        times = {"start": str(start), "end": str(end), "step": str(step)}
        return _answer(self.ask("/api/v1/query_range", query=query, **times))

    def label_values(self, label: str, series: str) -> list[str]:
        """What Grafana's `label_values(series, label)` gives."""
        found: list[str] = self.ask(f"/api/v1/label/{label}/values", **{"match[]": series})["data"]
        return found


def _answer(found: dict[str, Any]) -> Answer:
    return Answer(found["data"]["result"], [*found.get("warnings", []), *found.get("infos", [])])


@contextmanager
def store_of(text: Path, folder: Path) -> Iterator[Store]:
    """A server that has what a text says, OpenMetrics with times."""
    blocks, port = folder / "blocks", free_ports(1)[0]
    subprocess.run(
        [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", text, blocks],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    config = folder / "prometheus.yml"
    config.write_text("{}")
    options = [f"--config.file={config}", f"--storage.tsdb.path={blocks}", "--storage.tsdb.retention.time=100y"]
    command = [program("prometheus"), *options, f"--web.listen-address=127.0.0.1:{port}"]
    with process(command, folder / "prometheus.log", port) as url:
        yield Store(url)
