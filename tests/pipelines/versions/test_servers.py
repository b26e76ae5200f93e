"""A person names the version that a server serves; never where an experiment is about it. Laptop and cluster alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mtorl.experiment.history import HistoryError
from pipelines.experiments.by_hand import BY_HAND, ByHandError, ComparedError, promote, roll_back
from pipelines.experiments.handover import Mark
from pipelines.versions.place import Place, experiments_of
from pipelines.versions.servers import Told, on_cluster, on_this_machine
from serving.archive import version_of
from serving.local.stack import archives
from serving.versions.catalogue import find
from tests.experiments import experiment
from tests.pipelines.experiments.fake_cluster import FakeCluster
from tests.pipelines.experiments.test_local_servers import OLD, PORT, WON, Laptop, archive
from tests.serving.small_versions import digest, version

NEW = digest(1)[:12]


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    made = Laptop(tmp_path)
    (made.run / "artifacts" / "challenger").mkdir(parents=True)
    (made.run / "artifacts" / "challenger" / "dataset.yaml").write_text("name: small\n")
    return made


@pytest.fixture
def registry(laptop: Laptop) -> Path:
    root = laptop.run / "registry"
    ref = version(root, 1)
    archive(root / ref / "model-store" / "challenger.mar", NEW)
    return root


def reads(laptop: Laptop, *folders: str) -> None:
    """What `mtorl serve` writes at its start: what its router reads."""
    state = laptop.folder.state
    (state / "experiments").mkdir(exist_ok=True)
    for name in folders or (laptop.folder.file.name,):
        (state / "experiments" / name).symlink_to(laptop.folder.in_force)
    dataset = (
        laptop.run / "artifacts" / "challenger" / "not-there.yaml"
    )  # what an experiment must fit is no matter here
    settings = {"dataset": str(dataset), "experiment": str(state / "experiments")}
    (state / "router.yaml").write_text(yaml.safe_dump(settings))


def told(laptop: Laptop) -> Told:
    return on_this_machine(laptop.run, laptop.folder.state, PORT)


def served(laptop: Laptop) -> dict[str, str]:
    found = archives(laptop.run, laptop.folder.state)
    return {path.removesuffix(".mar"): version_of(found[path]) for path in sorted(found)}


def test_it_is_served_and_given_back(laptop: Laptop, registry: Path) -> None:
    here = told(laptop)
    assert here.experiments == [], "no router reads one"
    name = here.take(find(registry, NEW))
    said = promote(here.servers, "incumbent", name, digest(1), here.experiments, 0.0)
    assert said == f"incumbent is to serve {NEW} in place of {OLD}"
    assert served(laptop) == {"challenger": WON, "incumbent": NEW}
    assert (
        promote(here.servers, "incumbent", name, digest(1), here.experiments, 0.0) == f"incumbent serves {NEW} already"
    )
    assert (
        roll_back(here.servers, "incumbent", here.experiments)
        == f"incumbent is to serve {OLD} again, in place of {NEW}"
    )
    assert served(laptop) == {"challenger": WON, "incumbent": OLD}
    with pytest.raises(ByHandError, match="was rolled back already"):
        roll_back(here.servers, "incumbent", here.experiments)
    assert here.afterwards("incumbent", name) == "the next start of mtorl serve serves that"


def test_without_a_promotion_there_is_nothing_to_go_back_to(laptop: Laptop) -> None:
    with pytest.raises(ByHandError, match=f"nobody has noted what challenger served before {WON}"):
        roll_back(told(laptop).servers, "challenger", [])
    with pytest.raises(ByHandError, match="there is no model server other"):
        roll_back(told(laptop).servers, "other", [])


def test_what_an_experiment_compares_is_its_own(laptop: Laptop, registry: Path) -> None:
    reads(laptop)
    here = told(laptop)
    for arm in ("incumbent", "challenger"):
        with pytest.raises(ComparedError, match=f"first-day compares .*mtorl experiment stop {laptop.folder.file}"):
            promote(here.servers, arm, here.take(find(registry, NEW)), digest(1), here.experiments, 0.0)
        with pytest.raises(ComparedError):
            roll_back(here.servers, arm, here.experiments)
    assert served(laptop) == {"challenger": WON, "incumbent": OLD}
    laptop.do("stopped")
    here = told(laptop)
    promote(here.servers, "incumbent", here.take(find(registry, NEW)), digest(1), here.experiments, 0.0)
    assert served(laptop)["incumbent"] == NEW


def test_a_model_that_the_router_would_not_believe_is_not_served(laptop: Laptop, registry: Path) -> None:
    """The incumbent of an experiment that is over goes on serving everybody."""
    reads(laptop)
    laptop.do("stopped")
    fields = yaml.safe_load(laptop.folder.file.read_text())
    for pinned, served_now in (("0123", OLD), (digest(1)[:6], NEW)):
        fields["arms"][0]["model_digest"] = pinned
        laptop.folder.file.write_text(yaml.safe_dump(fields))
        here = told(laptop)
        try:
            promote(here.servers, "incumbent", here.take(find(registry, NEW)), digest(1), here.experiments, 0.0)
        except ComparedError as error:
            assert "must be model 0123" in str(error)
        assert served(laptop)["incumbent"] == served_now


def test_a_promotion_that_is_not_in_force_everywhere_comes_first(laptop: Laptop, registry: Path) -> None:
    reads(laptop)
    laptop.do("promoted")
    here = told(laptop)
    with pytest.raises(ComparedError, match=r"has promoted a model, .* mtorl experiment rollback"):
        promote(here.servers, "incumbent", here.take(find(registry, NEW)), digest(1), here.experiments, 0.0)
    settings = yaml.safe_load((laptop.folder.state / "router.yaml").read_text())
    laptop.settle()
    (laptop.folder.state / "router.yaml").write_text(yaml.safe_dump(settings))
    here = told(laptop)
    with pytest.raises(ComparedError, match="first-day has promoted what incumbent serves: roll that back"):
        roll_back(here.servers, "incumbent", here.experiments)
    promote(here.servers, "incumbent", here.take(find(registry, NEW)), digest(1), here.experiments, 0.0)
    assert roll_back(here.servers, "incumbent", here.experiments).startswith(f"incumbent is to serve {WON} again")


def test_an_experiment_that_can_not_be_read_is_not_passed_over(laptop: Laptop) -> None:
    reads(laptop)
    laptop.folder.file.write_text("name: []")
    with pytest.raises(ValueError, match="name"):
        told(laptop)


def test_a_model_of_another_data_set_is_not_served(laptop: Laptop, registry: Path) -> None:
    (laptop.run / "artifacts" / "challenger" / "dataset.yaml").write_text("name: other\n")
    with pytest.raises(ByHandError, match="is a model of another data set"):
        told(laptop).take(find(registry, NEW))


def test_the_versions_that_serve_here_are_needed(laptop: Laptop, registry: Path) -> None:
    reads(laptop)
    here = told(laptop)
    laptop.do("stopped")
    found = find(registry, NEW)
    place = Place(registry, run=laptop.run, state=laptop.folder.state)
    assert place.needs().reasons(found) == []
    here = told(laptop)
    promote(here.servers, "challenger", here.take(found), digest(1), here.experiments, 0.0)
    needs = place.needs()
    assert needs.serves(found) and needs.reasons(found) == [
        "mtorl serve serves it as challenger",
        "a rollback of challenger on this machine goes back to it",
    ]
    assert place.told_by == [f"the servers of {laptop.folder.state}"]


def test_the_router_says_which_experiments_there_are(laptop: Laptop, tmp_path: Path) -> None:
    assert experiments_of(tmp_path / "nowhere") == []
    reads(laptop)
    (found,) = experiments_of(laptop.folder.state)
    assert (found.file, found.state) == (laptop.folder.file, laptop.folder.state)
    plain = tmp_path / "plain.yaml"
    plain.write_text("name: plain\n")
    (laptop.folder.state / "experiments" / "plain.yaml").symlink_to(plain)
    assert [folder.file for folder in experiments_of(laptop.folder.state)] == [laptop.folder.file, plain]


SERVERS = {"incumbent": "http://mtorl-incumbent-predictor", "challenger": "http://mtorl-challenger-predictor"}


def of_cluster(**changes: Any) -> FakeCluster:
    cluster = FakeCluster()
    for arm in SERVERS:
        cluster.add_service(f"mtorl-{arm}", f"{arm}/first")
    fields = experiment("http://unused", **changes)
    for arm in fields["arms"]:
        arm["endpoint"] = SERVERS[arm["name"]]
    cluster.config_map = {"metadata": {"resourceVersion": "1"}, "data": {"spring.yaml": yaml.safe_dump(fields)}}
    return cluster


def test_an_inference_service_is_told_and_told_back(registry: Path) -> None:
    cluster = of_cluster(enabled=False)
    there = on_cluster(cluster)
    name = there.take(find(registry, NEW))
    promote(there.servers, "mtorl-incumbent", name, digest(1), there.experiments, 0.0)
    assert cluster.version_of("mtorl-incumbent") == f"challenger/{NEW}"
    (found,) = [there.servers.served("mtorl-incumbent")]
    assert found is not None and found.mark == Mark(
        experiment=BY_HAND, promotion="1970-01-01T00:00:00+00:00", before="incumbent/first", after=f"challenger/{NEW}"
    )
    assert f"Write `incumbent: challenger/{NEW}` into models.yaml" in there.afterwards("mtorl-incumbent", name)
    roll_back(there.servers, "mtorl-incumbent", there.experiments)
    assert cluster.version_of("mtorl-incumbent") == "incumbent/first"


def test_a_file_that_compares_on_a_cluster_is_in_the_way(registry: Path) -> None:
    there = on_cluster(of_cluster())
    with pytest.raises(ComparedError, match=r"enabled: false in spring\.yaml of the ConfigMap"):
        promote(there.servers, "mtorl-challenger", there.take(find(registry, NEW)), digest(1), there.experiments, 0.0)


def test_an_object_that_compares_is_in_the_way_also_while_it_is_switched_off(registry: Path) -> None:
    cluster = of_cluster(enabled=False, name="spring")
    cluster.apply("spring", {})
    cluster.objects["spring"]["status"] = {"phase": "5%"}
    there = on_cluster(cluster)
    with pytest.raises(ComparedError, match=r'kubectl patch exp spring .*"to": "stopped"'):
        promote(there.servers, "mtorl-challenger", there.take(find(registry, NEW)), digest(1), there.experiments, 0.0)
    cluster.objects["spring"]["status"] = {"phase": "stopped"}
    there = on_cluster(cluster)
    promote(there.servers, "mtorl-challenger", there.take(find(registry, NEW)), digest(1), there.experiments, 0.0)
    assert cluster.version_of("mtorl-challenger") == f"challenger/{NEW}"


def test_an_unreadable_experiment_on_a_cluster_is_not_passed_over() -> None:
    cluster = of_cluster()
    assert cluster.config_map is not None
    cluster.config_map["data"]["autumn.yaml"] = "name: []"
    with pytest.raises(HistoryError, match=r"autumn\.yaml can't be read"):
        on_cluster(cluster)
