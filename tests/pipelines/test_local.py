"""Tests that the local runner returns results and names the step that failed."""

import builtins
import logging
from pathlib import Path

import pytest
from kfp import dsl
from kfp.dsl import Artifact, Output

from mtorl.runtime.errors import InputError
from pipelines import local

plain = dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)


@plain
def double(number: int, out: Output[Artifact]) -> int:
    from mtorl.runtime import progress

    progress.report(1, 4, "a quarter")
    with open(out.path, "w") as file:
        file.write(str(2 * number))
    return 2 * number


@plain
def refuse(message: str):
    from mtorl.runtime import progress

    if message:
        progress.input_error(ValueError(message))
    raise ValueError("the step broke on purpose")


@dsl.pipeline(name="doubling")
def doubling(number: int = 1):
    first = double(number=number)
    double(number=first.outputs["Output"])


@dsl.pipeline(name="refusing")
def refusing(message: str = ""):
    refuse(message=message)


def test_results_and_progress(tmp_path: Path) -> None:
    events: list[tuple[str, float, float, str]] = []
    before = builtins.print, logging.getLogger().handlers[:], logging.getLogger().level
    steps = local.run(doubling, {"number": 3}, tmp_path / "root", lambda step, *now: events.append((step.name, *now)))
    assert steps["double"].values["Output"] == 6
    assert steps["double-2"].values["Output"] == 12
    assert steps["double-2"].paths["out"].read_text() == "12"
    assert ("double", 0, 0, "") in events and ("double", 1, 4, "a quarter") in events
    assert events[-1] == ("double-2", 1, 1, "")
    assert "double-2" in (tmp_path / "root" / "pipeline.log").read_text()
    assert (builtins.print, logging.getLogger().handlers[:], logging.getLogger().level) == before


def test_a_failing_step_names_its_error_and_the_log_and_an_input_error_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(local.PipelineError, match=r"broke on purpose.*pipeline\.log"):
        local.run(refusing, {}, tmp_path / "root", lambda *_: None)
    message = "log.csv: column 'channel': 2 rows\nwith an unknown channel"
    with pytest.raises(InputError) as raised:
        local.run(refusing, {"message": message}, tmp_path / "root", lambda *_: None)
    assert str(raised.value) == message
