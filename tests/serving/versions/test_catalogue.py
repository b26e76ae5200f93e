"""Tests that only complete versions are listed, and a name must identify one of them."""

import shutil
from pathlib import Path

from mtorl.artifact.lineage import FILE
from serving import messages
from serving.registry import RegistryError
from serving.versions.catalogue import find, versions
from tests.messages import raises
from tests.serving.small_versions import digest, lineage, version


def test_versions_are_listed_by_arm_the_newest_first(tmp_path: Path) -> None:
    named = [version(tmp_path, 0, "incumbent", "first"), *(version(tmp_path, n, known=lineage(n)) for n in (1, 3, 2))]
    assert [found.ref for found in versions(tmp_path)] == [named[2], named[3], named[1], named[0]]
    assert versions(tmp_path / "nowhere") == []


def test_an_unreadable_lineage_is_reported(tmp_path: Path) -> None:
    (tmp_path / version(tmp_path, 0) / FILE).write_text("{}")
    (tmp_path / version(tmp_path, 1) / FILE).unlink()
    for found in versions(tmp_path):
        assert found.lineage is None and FILE in found.problem and found.published is None


def test_an_incomplete_version_is_not_listed(tmp_path: Path) -> None:
    whole, lacking = version(tmp_path, 0), version(tmp_path, 1)
    (tmp_path / lacking / "model-store" / "challenger.mar").unlink()
    shutil.copytree(tmp_path / whole, (tmp_path / whole).with_name(".0123.abcd.removed"))
    assert [found.ref for found in versions(tmp_path)] == [whole]


def test_a_version_is_found_by_each_of_its_names(tmp_path: Path) -> None:
    ref = version(tmp_path, 1)
    first = version(tmp_path, 1, "incumbent", "first")
    assert find(tmp_path, ref).ref == ref
    assert find(tmp_path, digest(1)[:12]).ref == ref
    assert find(tmp_path, digest(1)[:5]).ref == ref, "of two names for one model, the one with the digest wins"
    assert find(tmp_path, first).ref == first
    assert find(tmp_path, "first").ref == first


def test_an_ambiguous_or_unknown_name_is_refused(tmp_path: Path) -> None:
    version(tmp_path, 0, "incumbent", "first"), version(tmp_path, 1, "challenger", "first")
    both = "challenger/first, incumbent/first"
    with raises(RegistryError, messages.SEVERAL_VERSIONS, name="first", known=both):
        find(tmp_path, "first")
    for name in ("challenger/typo", ""):
        with raises(RegistryError, messages.NO_VERSION, name=name, known=both):
            find(tmp_path, name)
