"""Tests that pruning keeps versions in use, and leaves each other version whole or gone."""

import os
from pathlib import Path

import pytest
import yaml

from mtorl.artifact.lineage import FILE
from mtorl.experiment.experiment import Experiment
from serving.registry import RegistryError, published_digest
from serving.versions.catalogue import find, versions
from serving.versions.need import Needs, experiments_in
from serving.versions.pruning import locked, prune, remove_version
from tests.experiments import experiment
from tests.serving.small_versions import digest, lineage, version


def names(registry: Path) -> list[str]:
    return sorted(found.ref for found in versions(registry))


def test_the_newest_of_each_arm_stay(tmp_path: Path) -> None:
    refs = [version(tmp_path, n) for n in range(5)]
    other = version(tmp_path, 9, "incumbent")
    assert [found.ref for found in prune(tmp_path, Needs(), keep=2)] == [refs[2], refs[1], refs[0]]
    assert names(tmp_path) == sorted([*refs[3:], other])


def test_a_needed_version_stays_at_any_age(tmp_path: Path) -> None:
    served, parent, named, decided, unneeded, _ = (
        version(tmp_path, n, known=lineage(n, parent=1 if n == 0 else None)) for n in range(6)
    )
    first = version(tmp_path, 7, "incumbent", "first"), version(tmp_path, 8, "incumbent")
    fields = experiment("http://h:1")
    fields["arms"][1]["model_digest"] = digest(2)[:8]
    needs = Needs([(served, "it serves", True), (digest(3), "it has decided", False)], [Experiment.from_dict(fields)])
    assert [found.ref for found in prune(tmp_path, needs, keep=1)] == [unneeded]
    assert {served, parent, named, decided, *first} <= set(names(tmp_path))
    assert needs.reasons(find(tmp_path, parent)) == [], "only `prune` considers parents"


def test_a_version_with_an_unreadable_lineage_stays(tmp_path: Path) -> None:
    old, ageless, newest = (version(tmp_path, number) for number in (0, 3, 9))
    (tmp_path / ageless / FILE).write_text("{}")
    assert [found.ref for found in prune(tmp_path, Needs(), keep=1)] == [old]
    assert names(tmp_path) == sorted([ageless, newest])


def test_a_rule_that_would_empty_the_registry_is_refused(tmp_path: Path) -> None:
    ref = version(tmp_path, 0)
    with pytest.raises(ValueError, match="keep"):
        prune(tmp_path, Needs(), 0)
    assert names(tmp_path) == [ref]


@pytest.mark.parametrize("at", range(11))
def test_a_killed_removal_leaves_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The process is killed before the n-th system call that changes a file."""
    old, new = version(tmp_path, 0, known=lineage(0)), version(tmp_path, 1)
    calls = iter(range(100))

    def kill(original: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            if next(calls) == at:
                raise KeyboardInterrupt
            return original(*args, **kwargs)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "rmdir"):
            patch.setattr(os, name, kill(getattr(os, name)))
        killed = True
        try:
            remove_version(find(tmp_path, old))
            killed = False
        except KeyboardInterrupt:
            pass
    assert killed == (at < 9), "the nine calls are all covered"
    whole = published_digest(tmp_path / old) == digest(0)
    assert whole or not (tmp_path / old).exists()
    assert names(tmp_path) == sorted([new, old] if whole else [new])
    prune(tmp_path, Needs([(old, "a test", False)]), keep=1)
    assert {path.name for path in (tmp_path / "challenger").iterdir()} == {Path(ref).name for ref in names(tmp_path)}


def test_an_abandoned_copy_is_removed_and_one_in_progress_stays(tmp_path: Path) -> None:
    version(tmp_path, 0)
    for name, age in ((".one.0123", 2 * 24 * 3600), (".two.0123", 60)):
        (tmp_path / "challenger" / name).mkdir()
        at = os.stat(tmp_path).st_mtime - age
        os.utime(tmp_path / "challenger" / name, (at, at))
    prune(tmp_path, Needs())
    assert {path.name for path in (tmp_path / "challenger").glob(".*")} == {".two.0123"}


def test_only_one_process_changes_a_registry(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RegistryError, match="another process"), locked(tmp_path, 0.0):
        pass
    with locked(tmp_path, 0.0):
        pass


def test_a_reason_is_listed_once_and_serving_is_remembered(tmp_path: Path) -> None:
    found = find(tmp_path, version(tmp_path, 0))
    needs = Needs([(digest(0)[:6], "one", False), (found.ref, "one", True), ("", "nothing", True)])
    assert needs.reasons(found) == ["one"] and needs.serves(found)
    other = find(tmp_path, version(tmp_path, 1))
    assert needs.reasons(other) == [] and not needs.serves(other)


def test_experiments_of_a_folder_of_a_file_and_of_nothing(tmp_path: Path) -> None:
    assert experiments_in(tmp_path / "nowhere") == []
    file = tmp_path / "spring.yaml"
    file.write_text(yaml.safe_dump(experiment("http://h:1", name="spring")))
    (tmp_path / "..data").mkdir()
    assert (
        [found.name for found in experiments_in(file)]
        == [found.name for found in experiments_in(tmp_path)]
        == ["spring"]
    )
