"""A stack waits until its router decides by the files as they are now: without servers, on a router's files alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mtorl.experiment.experiment import Experiment
from serving.local import model_server
from serving.local.stack import LocalStack, Own, StackError
from tests.mtorl.experiment.experiments import FILE

OWN = ("spring", "autumn")


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it has slept, on a clock that nothing else moves."""
    naps: list[float] = []
    # Its own clock: threads that other tests have left sleep by the real one.
    clock = SimpleNamespace(time=time.time, monotonic=lambda: sum(naps), sleep=naps.append)
    monkeypatch.setattr(model_server, "time", clock)
    return naps


def wait(
    monkeypatch: pytest.MonkeyPatch, run: Path, names: tuple[str, ...], check: Callable[[dict[str, str]], None]
) -> None:
    """Wait for a router that has the stage before of each experiment; `check` may change its versions."""
    own = Own({f"{name}.yaml": run / f"{name}.yaml" for name in names}, run / "state") if names == OWN else None
    stack = LocalStack(run, own)
    has = {name: Experiment.from_dict({**FILE, "name": name, "stage": "shadow"}).version for name in names}
    monkeypatch.setattr(stack, "check", lambda: check(has))
    monkeypatch.setattr(stack, "_in_force", lambda: has)
    for name in names:
        file = stack.experiment / f"{name}.yaml" if own else stack.experiment
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({**FILE, "name": name, "stage": "5%"}))
    stack.wait_for_experiment()


@pytest.mark.parametrize("names", [(FILE["name"],), OWN])
def test_it_waits_until_the_router_decides_by_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float], names: tuple[str, ...]
) -> None:
    late = [*names]

    def follow_one_more(has: dict[str, str]) -> None:
        name = late.pop()
        has[name] = Experiment.from_dict({**FILE, "name": name, "stage": "5%"}).version

    wait(monkeypatch, tmp_path, names, follow_one_more)
    assert not late


def test_a_router_that_does_not_follow_or_ends_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    def end(_: dict[str, str]) -> None:
        raise StackError("the router has ended")

    with pytest.raises(StackError, match="the router has ended"):
        wait(monkeypatch, tmp_path, (FILE["name"],), end)
    assert naps == []
    with pytest.raises(StackError, match=r"does not follow .*experiment\.yaml; see .*router\.log"):
        wait(monkeypatch, tmp_path, (FILE["name"],), lambda _: None)
    assert 5.0 < sum(naps) < 60.0
