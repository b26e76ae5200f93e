"""Tests that a simulated log has the same content in each raw format."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from mtorl.runtime.errors import InputError
from mtorl.simulator.raw_log import SUFFIXES, write_raw_log
from mtorl.simulator.simulator import Simulator, SimulatorConfig

CONFIG = SimulatorConfig(users=30, seed=3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_contains_the_log(suffix: str, tmp_path: Path) -> None:
    path, log = tmp_path / f"raw{suffix}", Simulator(CONFIG).log()
    assert write_raw_log(path, CONFIG) == len(log)
    if suffix == ".parquet":
        read = pd.read_parquet(path)
    else:
        read = pd.read_csv(path, parse_dates=["timestamp"], float_precision="round_trip")
    pd.testing.assert_frame_equal(read, log, check_dtype=False, check_exact=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv.gz", tmp_path / "second.csv.gz"
    for path in (first, second):
        write_raw_log(path, CONFIG)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4), "the gzip header contains a time"
    assert gzip.decompress(first.read_bytes()).startswith(b"user_id,timestamp,")


def test_an_unknown_suffix_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"raw\.xlsx: .*\.parquet"):
        write_raw_log(tmp_path / "raw.xlsx", CONFIG)
