"""The process that reads the log for the operator."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtorl.experiment.experiment import Experiment
from mtorl.experiment.stage_machine import State, in_force
from mtorl.log.gain import Gain
from mtorl.log.touchpoints import LogError
from pipelines.experiments.operator.log_reader import LogReader
from tests.features.collect.decision_logs import decision, write
from tests.mtorl.experiment.experiments import FILE
from tests.repository import ROOT

OPERATOR = """
import multiprocessing, os, sys
from mtorl.experiment.experiment import Experiment
from mtorl.log.gain import Gain
from pipelines.experiments.operator.log_reader import LogReader
from tests.mtorl.experiment.experiments import FILE

if __name__ == "__main__":
    LogReader(sys.argv[1], Gain.of_spec("click")).look(Experiment.from_dict(FILE), 0.0, 0.0)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os._exit(1)
"""


def test_it_ends_with_an_operator_that_is_killed(tmp_path: Path) -> None:
    script, output = tmp_path / "killed.py", tmp_path / "output"
    script.write_text(OPERATOR)
    with output.open("w") as out:  # no pipe: a process that is left behind would hold its end
        subprocess.run(
            [sys.executable, str(script), str(tmp_path)], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdout=out
        )
    reader = int(output.read_text())
    until = time.monotonic() + 10
    while Path(f"/proc/{reader}").exists() and " Z " not in Path(f"/proc/{reader}/stat").read_text():
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.05)


def test_a_table_that_the_verdict_needs_and_that_is_gone_is_said(tmp_path: Path) -> None:
    """It is no fault of the spec, which was accepted: the ramp waits, and a condition says for what."""
    decisions = [decision(f"d{n}", n, experiment=FILE["name"], salt=FILE["salt"], user_id=f"u{n}") for n in range(3)]
    log = write(tmp_path / "log", decisions, [])
    experiment = Experiment.from_dict({**FILE, "covariates": {"table": str(tmp_path / "gone.parquet")}})
    reader = LogReader(str(log), Gain.of_spec("click"))
    try:
        with pytest.raises(LogError, match=r"covariates\.table: .*gone\.parquet: no such file"):
            reader.look(in_force(experiment, State("50%", 0.0)), 0.0, 0.0)
    finally:
        reader.close()
