"""A stack waits until its router decides by the files as they are now: without servers, on a router's files alone."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from serving.local import stack as stack_module
from serving.local.stack import LocalStack, Own, StackError
from tests.mtorl.experiment.experiments import FILE


class Router:
    """What a router keeps, in place of one: with each look at it one step further.

    Attributes:
        steps: What it does at each check that it is still there.
    """

    def __init__(self, state: Path) -> None:
        self.kept = state / "last-good-experiments"
        self.steps: list[Any] = []
        self.checks = 0

    def keep(self, name: str, **changes: Any) -> None:
        self.kept.mkdir(parents=True, exist_ok=True)
        (self.kept / name).write_text(yaml.safe_dump({**FILE, **changes}))

    def check(self) -> None:
        self.checks += 1
        if self.steps:
            self.steps.pop(0)()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it has slept, on a clock that nothing else moves."""
    naps: list[float] = []
    # Its own clock: threads that other tests have left sleep by the real one.
    clock = SimpleNamespace(time=time.time, monotonic=lambda: sum(naps), sleep=naps.append)
    monkeypatch.setattr(stack_module, "time", clock)
    return naps


def started(monkeypatch: pytest.MonkeyPatch, run: Path, own: Own | None = None) -> tuple[LocalStack, Router]:
    """A stack whose router follows as it is told."""
    stack = LocalStack(run, own)
    router = Router(stack.serving)
    monkeypatch.setattr(stack, "check", router.check)
    return stack, router


def test_it_waits_for_the_file_and_then_for_the_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    stack, router = started(monkeypatch, tmp_path)
    router.keep("experiment.yaml", stage="shadow")
    stack.experiment.write_text(yaml.safe_dump({**FILE, "stage": "5%"}))
    router.steps = [lambda: None, lambda: router.keep("experiment.yaml", stage="5%")]
    stack.wait_for_experiment()
    assert router.checks == 2 and naps[-1] >= 1.0, "the router sets accounts once a second"
    stack.wait_for_experiment()
    assert router.checks == 2, "it has it already"


def test_of_several_it_waits_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]) -> None:
    own = Own({"spring.yaml": tmp_path / "spring.yaml", "autumn.yaml": tmp_path / "autumn.yaml"}, tmp_path / "spring")
    stack, router = started(monkeypatch, tmp_path, own)
    stack.experiment.mkdir(parents=True)
    for name in own.experiments:
        router.keep(name, stage="shadow")
        (stack.experiment / name).write_text(yaml.safe_dump({**FILE, "stage": "5%"}))
    router.steps = [lambda name=name: router.keep(name, stage="5%") for name in own.experiments]
    stack.wait_for_experiment()
    assert router.checks == 2


def test_a_router_that_does_not_follow_is_an_error_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    stack, router = started(monkeypatch, tmp_path)
    router.keep("experiment.yaml", stage="shadow")
    stack.experiment.write_text(yaml.safe_dump({**FILE, "stage": "5%"}))
    with pytest.raises(StackError, match=r"does not follow .*experiment\.yaml; see .*router\.log"):
        stack.wait_for_experiment()
    assert 5.0 < sum(naps) < 60.0


def test_a_router_that_ends_meanwhile_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    stack, router = started(monkeypatch, tmp_path)
    router.keep("experiment.yaml", stage="shadow")
    stack.experiment.write_text(yaml.safe_dump({**FILE, "stage": "5%"}))

    def end() -> None:
        raise StackError("the router has ended")

    router.steps = [end]
    with pytest.raises(StackError, match="the router has ended"):
        stack.wait_for_experiment()
    assert naps == []
