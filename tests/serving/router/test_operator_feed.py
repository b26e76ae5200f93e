"""What a router takes for in force when the operator answers, is silent, comes back, or says rubbish."""

from __future__ import annotations

import contextlib
import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtorl.experiment.experiment import Experiment, ExperimentError
from serving.router.ops import operator_feed
from serving.router.ops.health import Health
from serving.router.ops.live_experiment import LiveExperiment
from serving.router.ops.operator_feed import OperatorFeed
from tests.experiments import experiment
from tests.serving.router_fixtures import SPEC


def text(**changes: Any) -> str:
    return yaml.safe_dump(experiment("http://127.0.0.1:9", **changes))


class FakeOperator:
    """Answers with a text, or with a status; remembers what was asked."""

    def __init__(self) -> None:
        self.answer: str | int = text()
        self.asked: list[str] = []
        self.most: int | None = None
        """Bytes of an answer after which the connection ends."""
        self.pause = 0.0
        """Seconds after each byte."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                body = outer.answer.encode() if isinstance(outer.answer, str) else b""
                self.send_response(200 if isinstance(outer.answer, str) else outer.answer)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                if not outer.pause:
                    self.wfile.write(body[: outer.most])
                    return
                with contextlib.suppress(ConnectionError):
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        time.sleep(outer.pause)

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOperator]:
    monkeypatch.setattr(operator_feed, "_SILENT_SECONDS", -1.0)  # nobody waits in a test
    made = FakeOperator()
    yield made
    made.server.shutdown()
    made.server.server_close()


def feed_of(operator: FakeOperator, folder: Path) -> OperatorFeed:
    return OperatorFeed(operator.url, folder / "mounted.yaml", folder / "last-good.yaml", "router-0")


def written(path: Path, content: str, at: float) -> None:
    path.write_text(content)
    os.utime(path, (at, at))


def test_the_operator_is_asked_and_hears_what_this_router_has(operator: FakeOperator, tmp_path: Path) -> None:
    feed = feed_of(operator, tmp_path)
    live = LiveExperiment(feed, SPEC, Health(), tmp_path / "last-good.yaml")
    assert live.experiment.enabled and operator.asked == ["/v1/in-force?router=router-0&version="]
    operator.answer = text(enabled=False)
    feed.ask(live.experiment.version)
    assert operator.asked[-1].endswith(f"version={live.experiment.version}")
    assert live.refresh() and not live.experiment.enabled
    operator.answer = 304
    feed.ask(live.experiment.version)
    assert not live.refresh() and not live.experiment.enabled


def test_a_silent_operator_changes_nothing(operator: FakeOperator, tmp_path: Path) -> None:
    written(tmp_path / "mounted.yaml", text(salt="old"), at=1_000_000)
    feed = feed_of(operator, tmp_path)
    operator.answer = 503
    feed.ask("")
    assert feed.load(SPEC).salt == "s", "the mounted file was written before the operator said what it is now"
    written(tmp_path / "mounted.yaml", text(enabled=False), at=4_000_000_000)
    feed.ask("")
    assert not feed.load(SPEC).enabled, "a person has changed the ConfigMap by hand"
    operator.answer = text(salt="new")
    feed.ask("")
    assert feed.load(SPEC).salt == "new"


@pytest.mark.parametrize(("mounted_at", "salt"), [(1_000_000, "kept"), (3_000_000, "mounted")])
def test_a_start_without_an_operator_takes_what_was_written_last(
    operator: FakeOperator, tmp_path: Path, mounted_at: float, salt: str
) -> None:
    operator.answer = 503
    written(tmp_path / "last-good.yaml", text(salt="kept"), at=2_000_000)
    written(tmp_path / "mounted.yaml", text(salt="mounted"), at=mounted_at)
    assert feed_of(operator, tmp_path).load(SPEC).salt == salt


def test_a_start_without_anything_says_so(operator: FakeOperator, tmp_path: Path) -> None:
    operator.answer = 503
    with pytest.raises(ExperimentError, match=r"the operator does not answer at http://127\.0\.0\.1:.*is not there"):
        feed_of(operator, tmp_path).load(SPEC)


@pytest.mark.parametrize("rubbish", ["{", "a: 1", "[]", "\x00", "start: 2026-02-30", "[" * 5000])
def test_rubbish_is_refused_and_what_was_goes_on(operator: FakeOperator, tmp_path: Path, rubbish: str) -> None:
    feed, health = feed_of(operator, tmp_path), Health()
    live = LiveExperiment(feed, SPEC, health, tmp_path / "last-good.yaml")
    operator.answer = rubbish
    feed.ask("")
    assert not live.refresh() and live.experiment == Experiment.from_dict(yaml.safe_load(text()))
    assert "what the operator says is in force" in health.parts["experiment"]


def test_half_an_answer_is_none(operator: FakeOperator, tmp_path: Path) -> None:
    """A YAML file that ends early may still be an experiment: another one."""
    feed = feed_of(operator, tmp_path)
    operator.answer = text(enabled=False) + "owner: ads\nalpha: 0.01\n"
    assert Experiment.from_yaml(operator.answer[:-12]).alpha == 0.05
    for most in range(0, len(operator.answer), 7):
        operator.most = most
        feed.ask("")
        assert feed.load(SPEC).enabled
    operator.most = None
    feed.ask("")
    assert feed.load(SPEC).alpha == 0.01


def test_an_answer_that_does_not_end_is_none(
    operator: FakeOperator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that gives a byte now and then is never silent for long: only the whole has a limit."""
    feed = feed_of(operator, tmp_path)
    monkeypatch.setattr(operator_feed, "_ANSWER_SECONDS", 0.3)
    operator.answer, operator.pause = text(salt="slow"), 0.1
    began = time.monotonic()
    feed.ask("")
    # It would take a minute; that it ends is what is tested, not how soon.
    assert feed.load(SPEC).salt == "s" and time.monotonic() - began < 0.1 * len(operator.answer)
    operator.pause = 0.0
    monkeypatch.setattr(operator_feed, "_ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(operator_feed, "_MOST_BYTES", 1000)
    operator.answer = text(salt="huge") + "# " + "x" * 1000
    feed.ask("")
    assert feed.load(SPEC).salt == "s"


def test_what_the_operator_has_just_confirmed_is_newer_than_a_file(operator: FakeOperator, tmp_path: Path) -> None:
    """A kubelet brings an older ConfigMap late: after the kill switch, and before the operator is away."""
    feed = feed_of(operator, tmp_path)
    operator.answer = text(enabled=False)
    feed.ask("")
    written(tmp_path / "mounted.yaml", text(), at=time.time())
    time.sleep(0.01)
    operator.answer = 304
    feed.ask("version")
    operator.answer = 503
    feed.ask("version")
    assert not feed.load(SPEC).enabled


def test_the_refusal_ends_with_the_return_to_what_was_in_force(operator: FakeOperator, tmp_path: Path) -> None:
    feed, health = feed_of(operator, tmp_path), Health()
    live = LiveExperiment(feed, SPEC, health, tmp_path / "last-good.yaml")
    operator.answer = text(default_channel="tv")
    feed.ask(live.experiment.version)
    assert not live.refresh() and "refused" in health.parts["experiment"]
    operator.answer = text()
    feed.ask(live.experiment.version)
    assert operator.asked[-1].endswith("version="), "it does not say that it has what it had"
    assert live.refresh() and health.parts["experiment"] == "ok"
