from pathlib import Path

import pytest
import yaml

from pipelines.experiments.local_servers import LocalServers
from pipelines.experiments.versions_in_use import VersionsInUse, experiments_of
from serving.model_servers import Mark
from serving.versions.catalogue import find
from tests.pipelines.experiments.test_local_servers import PORT, WON, Laptop, archive
from tests.serving.small_versions import digest, version

NEW = digest(1)[:12]


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(tmp_path)


def reads(laptop: Laptop) -> None:
    state = laptop.folder.state
    (state / "experiments").mkdir()
    (state / "experiments" / laptop.folder.file.name).symlink_to(laptop.folder.in_force)
    settings = {"dataset": str(laptop.run / "dataset.yaml"), "experiment": str(state / "experiments")}
    (state / "router.yaml").write_text(yaml.safe_dump(settings))


def test_served_versions_and_the_target_of_a_rollback_are_needed(laptop: Laptop) -> None:
    registry = laptop.run / "registry"
    ref = version(registry, 1)
    uses = VersionsInUse(registry, state=laptop.folder.state)
    assert uses.needs().reasons(find(registry, NEW)) == []
    archive(laptop.run / "model-store" / "challenger.mar", NEW)
    mark = Mark(experiment="first-day", promotion="1", before=WON, after=NEW)
    LocalServers(laptop.run, laptop.folder.state, PORT).serve("incumbent", NEW, mark)
    needs = uses.needs()
    reasons = sorted(needs.reasons(find(registry, ref)))
    assert needs.serves(find(registry, ref))
    assert [reason.split()[-1] for reason in reasons] == ["it", "challenger", "incumbent"]
    assert uses.sources == [f"the servers of {laptop.folder.state}"]


def test_versions_named_by_a_local_experiment_are_needed(laptop: Laptop) -> None:
    registry = laptop.run / "registry"
    version(registry, 1)
    reads(laptop)
    fields = yaml.safe_load(laptop.folder.file.read_text())
    fields["arms"][0]["model_digest"] = digest(1)[:6]
    laptop.folder.file.write_text(yaml.safe_dump(fields))
    (reason,) = VersionsInUse(registry, state=laptop.folder.state).needs().reasons(find(registry, NEW))
    assert reason == f"the experiment {laptop.folder.file} names it (incumbent)"
    laptop.folder.file.write_text("name: []")
    # It is unknown which versions the invalid file needs.
    with pytest.raises(ValueError, match="name"):
        VersionsInUse(registry, state=laptop.folder.state).needs()


def test_the_routers_settings_determine_the_experiments(laptop: Laptop, tmp_path: Path) -> None:
    assert experiments_of(tmp_path / "nowhere") == []
    reads(laptop)
    (found,) = experiments_of(laptop.folder.state)
    assert (found.file, found.state) == (laptop.folder.file, laptop.folder.state)
    plain = tmp_path / "plain.yaml"
    plain.write_text("name: plain\n")
    (laptop.folder.state / "experiments" / "plain.yaml").symlink_to(plain)
    assert [folder.file for folder in experiments_of(laptop.folder.state)] == [laptop.folder.file, plain]
