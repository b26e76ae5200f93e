"""Tests that the operator's log reader exits if the operator is killed."""

import subprocess
import sys
from pathlib import Path

from tests.repository import ROOT
from tests.waiting import eventually

OPERATOR = """
import multiprocessing, os, sys
from mtorl.experiment.experiment import Experiment
from mtorl.log.gain import Gain
from pipelines.experiments.operator.log_reader import LogReader
from tests.mtorl.experiment.experiments import FILE

if __name__ == "__main__":
    LogReader(sys.argv[1], Gain.of_spec("click")).read(Experiment.from_dict(FILE), 0.0, 0.0)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os._exit(1)
"""


def test_the_log_reader_exits_when_the_operator_is_killed(tmp_path: Path) -> None:
    script, output = tmp_path / "killed.py", tmp_path / "output"
    script.write_text(OPERATOR)
    # With a pipe, a surviving reader would make the test hang.
    with output.open("w") as out:
        command = [sys.executable, str(script), str(tmp_path)]
        subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdout=out)
    stat = Path(f"/proc/{int(output.read_text())}/stat")
    eventually(lambda: not stat.exists() or " Z " in stat.read_text())
