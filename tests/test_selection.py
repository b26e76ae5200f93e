"""Tests that a plain run leaves out, and examples that it tries (tests/conftest.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository import ROOT

TESTS = """
import pytest
from hypothesis import given, settings, strategies as st

@pytest.mark.long
def test_long():
    pass

@given(st.integers())
def test_property(number):
    assert settings().max_examples == {examples}
"""


@pytest.mark.parametrize(
    ("options", "passed", "examples"),
    [([], 1, 10), (["--all"], 2, 100), (["-m", "long"], 1, 10), (["test_it.py"], 2, 10)],
    ids=["plain", "all", "marker", "file"],
)
def test_long_tests_run_when_they_are_asked_for(tmp_path: Path, options: list[str], passed: int, examples: int) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(TESTS.replace("{examples}", str(examples)))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = long: minutes\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"{passed} passed" in done.stdout, done.stdout
