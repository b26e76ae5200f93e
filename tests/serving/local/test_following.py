"""A stack waits until its router decides by the files as they are now: without servers, on a router's files alone."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mtorl.experiment.experiment import Experiment
from serving.local import stack as stack_module
from serving.local.stack import LocalStack, Own, StackError
from tests.mtorl.experiment.experiments import FILE


class Router:
    """What a router says of itself, in place of one: with each look at it one step further.

    Attributes:
        follows: Versions of the experiments by which it decides.
        steps: What it does at each check that it is still there.
    """

    def __init__(self) -> None:
        self.follows: dict[str, str] = {}
        self.steps: list[Any] = []
        self.checks = 0

    def follow(self, name: str = FILE["name"], **changes: Any) -> None:
        self.follows[name] = Experiment.from_dict({**FILE, "name": name, **changes}).version

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
    router = Router()
    monkeypatch.setattr(stack, "check", router.check)
    monkeypatch.setattr(stack, "_in_force", lambda: router.follows)
    stack.serving.mkdir(parents=True, exist_ok=True)
    return stack, router


def test_it_waits_until_the_router_decides_by_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    stack, router = started(monkeypatch, tmp_path)
    router.follow(stage="shadow")
    stack.experiment.write_text(yaml.safe_dump({**FILE, "stage": "5%"}))
    router.steps = [lambda: None, lambda: router.follow(stage="5%")]
    stack.wait_for_experiment()
    assert router.checks == 2
    stack.wait_for_experiment()
    assert router.checks == 2, "it has it already"


def test_of_several_it_waits_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]) -> None:
    own = Own({"spring.yaml": tmp_path / "spring.yaml", "autumn.yaml": tmp_path / "autumn.yaml"}, tmp_path / "spring")
    stack, router = started(monkeypatch, tmp_path, own)
    stack.experiment.mkdir(parents=True)
    for name in ("spring", "autumn"):
        router.follow(name, stage="shadow")
        (stack.experiment / f"{name}.yaml").write_text(yaml.safe_dump({**FILE, "name": name, "stage": "5%"}))
    router.steps = [lambda name=name: router.follow(name, stage="5%") for name in ("spring", "autumn")]
    stack.wait_for_experiment()
    assert router.checks == 2


def test_a_router_that_does_not_follow_is_an_error_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    stack, router = started(monkeypatch, tmp_path)
    router.follow(stage="shadow")
    stack.experiment.write_text(yaml.safe_dump({**FILE, "stage": "5%"}))
    with pytest.raises(StackError, match=r"does not follow .*experiment\.yaml; see .*router\.log"):
        stack.wait_for_experiment()
    assert 5.0 < sum(naps) < 60.0


def test_a_router_that_ends_meanwhile_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    stack, router = started(monkeypatch, tmp_path)
    router.follow(stage="shadow")
    stack.experiment.write_text(yaml.safe_dump({**FILE, "stage": "5%"}))

    def end() -> None:
        raise StackError("the router has ended")

    router.steps = [end]
    with pytest.raises(StackError, match="the router has ended"):
        stack.wait_for_experiment()
    assert naps == []
