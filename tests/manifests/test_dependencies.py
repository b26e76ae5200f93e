"""Tests that docs/dependencies.md gives a reason for exactly the installed packages."""

import re
import tomllib

from packaging.requirements import Requirement

from tests.manifests.conftest import MANIFESTS
from tests.repository import ROOT

Places = dict[str, set[str]]


def _said(section: str) -> Places:
    places: Places = {}
    for packages, where, reason in re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.M):
        assert reason.strip()
        if packages != "package":
            for name in re.sub(r"\[[^]]*\]", "", packages).split(", "):
                assert name not in places, f"{name}: twice"
                places[name] = set(where.split(", "))
    return places


PYPI, APT = (_said(part) for part in (ROOT / "docs" / "dependencies.md").read_text().split("## From the distribution"))


def test_each_requirement_has_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {
        "core": project["project"]["dependencies"],
        "build": project["build-system"]["requires"],
        **project["project"]["optional-dependencies"],
    }
    required: Places = {}
    for group, lines in groups.items():
        for name in (Requirement(line).name for line in lines):
            if name != project["project"]["name"]:  # skips an extra that includes another
                required.setdefault(name, set()).add(group)
    assert required == PYPI


def test_each_apt_package_has_a_reason() -> None:
    installed: Places = {}
    tools = re.findall(r"[\w.-]+:([a-z][\w.,-]*)", (ROOT / ".ci" / "run").read_text().split("apt-get", 1)[0])
    for name in ",".join(tools).split(","):
        installed.setdefault(name, set()).add("CI")
    for path in MANIFESTS.glob("images/*/Dockerfile"):
        for names in re.findall(r"apt-get install -y --no-install-recommends (.+?) \\$", path.read_text(), re.M):
            for name in names.split():
                installed.setdefault(name, set()).add(path.parent.name)
    assert installed == APT
