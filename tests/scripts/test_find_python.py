"""The versions of Python that `make` looks for."""

import re
import tomllib

from tests.repository import ROOT


def test_supported_versions_are_those_of_the_package() -> None:
    (line,) = re.findall(r"^SUPPORTED=\((.*?)\)", (ROOT / "scripts" / "find-python.sh").read_text(), re.M)
    versions = sorted(line.split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [entry.split(" :: ")[-1] for entry in project["classifiers"]] == versions
    assert project["requires-python"] == f">={versions[0]},<3.{int(versions[-1].split('.')[1]) + 1}"
