"""A log's content as the key under which what was made of it is kept."""

from pathlib import Path

import pandas as pd
import pytest

from components.fingerprint.component import fingerprint
from mtorl.simulator.raw_log import write_raw_log
from mtorl.simulator.simulator import SimulatorConfig


def test_one_row_makes_the_difference(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    write_raw_log(raw, SimulatorConfig(users=20))
    before = fingerprint.python_func(str(raw), "simulator")
    assert fingerprint.python_func(str(raw), "simulator") == before
    rows = pd.read_csv(raw)
    rows.loc[3, "cost"] += 0.25
    rows.to_csv(raw, index=False)
    assert fingerprint.python_func(str(raw), "simulator") != before


@pytest.mark.parametrize("source", ["", "none.csv"])
def test_without_a_log_the_step_ends_in_a_line(source: str) -> None:
    with pytest.raises(SystemExit, match=r"^mtorl: (source: give the path|none\.csv: no such file)"):
        fingerprint.python_func(source, "simulator")
