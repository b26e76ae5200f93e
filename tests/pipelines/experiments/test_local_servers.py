"""Tests that the incumbent's local model server follows promotions and rollbacks."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtorl.experiment.experiment import ExperimentError
from mtorl.experiment.messages import NO_EVENT
from mtorl.runtime import files
from mtorl.runtime.message import Message
from pipelines import messages
from pipelines.experiments.controller import act, state
from pipelines.experiments.folder import ExperimentFolder
from pipelines.experiments.local_servers import LocalServers, follow_rollbacks, settle
from serving.archive import version_of
from serving.local.stack import archives
from tests.experiments import experiment
from tests.messages import assert_says, raises
from tests.mtorl.experiment.experiments import RAMP

PORT = 8085
OLD, WON, LATER = "e2ece1b11469", "d348422f5562", "77d0a1b2c3d4"


def archive(path: Path, version: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelVersion": version}}))


def run_with(folder: Path, **versions: str) -> Path:
    for model, version in versions.items():
        archive(folder / "model-store" / f"{model}.mar", version)
    return folder


class Laptop:
    def __init__(self, folder: Path, name: str = "first-day", **changes: Any) -> None:
        self.run = run_with(folder / "runs" / "one", incumbent=OLD, challenger=WON)
        fields = experiment(f"http://127.0.0.1:{PORT}", name=name, ramp=RAMP, **changes)
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({key: value for key, value in fields.items() if key != "stage"}))
        self.folder = ExperimentFolder.of(file)
        self.served(self.run)
        self.do("50%")

    def served(self, run: Path) -> None:
        self.folder.state.mkdir(exist_ok=True)
        settings = {"dataset": str(run / "artifacts" / "challenger" / "dataset.yaml"), "experiment": ""}
        (self.folder.state / "router.yaml").write_text(yaml.safe_dump(settings))

    def tonight(self) -> Path:
        return run_with(self.run.with_name("two"), incumbent="another", challenger=LATER)

    def do(self, to: Any) -> None:
        challenger = {"challenger": "challenger"} if to == "promoted" else {}
        act(self.folder, "move", by="person", reason="a test", at=0.0, to=to, **challenger)

    def settle(self, run: Path | None = None) -> list[Message]:
        said = settle([self.folder], run or self.run, self.folder.state, PORT)
        self.served(run or self.run)
        return said

    def versions(self, run: Path | None = None) -> dict[str, str]:
        found = archives(run or self.run, self.folder.state)
        return {path.removesuffix(".mar"): version_of(found[path]) for path in sorted(found)}

    def answers_at(self) -> str:
        served = self.folder.last_in_force()
        assert served is not None
        return str(served.arm("incumbent").url).rpartition("/")[2]

    def happened(self) -> list[str]:
        return [event.to or event.kind for event in self.folder.events()]


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(tmp_path)


def test_the_next_start_serves_what_was_promoted_as_the_incumbent(laptop: Laptop) -> None:
    laptop.do("promoted")
    assert laptop.answers_at() == "challenger:predict" and laptop.versions() == {"incumbent": OLD, "challenger": WON}
    assert_says(laptop.settle()[0], messages.HANDED_OVER, after=WON, before=OLD)
    assert laptop.answers_at() == "incumbent:predict" and laptop.versions() == {"incumbent": WON, "challenger": WON}
    laptop.settle()
    assert laptop.happened() == ["50%", "promoted", "handed over"], "a second start must not hand over again"


def test_the_promoted_model_stays_the_incumbent_in_the_next_nights_run(laptop: Laptop) -> None:
    laptop.do("promoted")
    tonight = laptop.tonight()
    laptop.settle(tonight)
    assert laptop.versions(tonight) == {"incumbent": WON, "challenger": LATER}, "promoted in the old run"
    shutil.rmtree(laptop.run)
    laptop.settle(tonight)
    assert laptop.versions(tonight) == {"incumbent": WON, "challenger": LATER}
    laptop.do("rolled back")
    laptop.settle(tonight)
    assert laptop.versions(tonight) == {"incumbent": OLD, "challenger": LATER}, "the previous one, not tonight's"


def test_a_missing_promoted_model_is_reported_and_not_replaced(laptop: Laptop) -> None:
    laptop.do("promoted")
    shutil.rmtree(laptop.run)
    tonight = laptop.tonight()
    with raises(ExperimentError, messages.MODEL_GONE, challenger="challenger"):
        laptop.settle(tonight)
    laptop.do("rolled back")
    assert_says(laptop.settle(tonight)[0], messages.NOTHING_TO_UNDO)
    assert laptop.versions(tonight) == {"incumbent": "another", "challenger": LATER}


def test_a_rollback_restarts_the_running_models_once_and_a_promotion_does_not(laptop: Laptop) -> None:
    restarts: list[dict[str, str]] = []
    servers = LocalServers(laptop.run, laptop.folder.state, PORT, lambda: restarts.append(laptop.versions()))
    laptop.do("promoted")
    assert follow_rollbacks([laptop.folder], servers) is None and laptop.answers_at() == "challenger:predict"
    laptop.settle()
    assert follow_rollbacks([laptop.folder], servers) is None and not restarts, "a promotion must not restart models"
    laptop.do("rolled back")
    for _ in range(3):
        assert follow_rollbacks([laptop.folder], servers) is None
    assert restarts == [{"incumbent": OLD, "challenger": WON}] and laptop.answers_at() == "incumbent:predict"


NEEDS_NO_SERVER: list[Any] = ["baseline", [{"channel": "search"}]]


def without_server(folder: Path, policy: Any, **changes: Any) -> Laptop:
    """Return a laptop whose incumbent is a built-in policy, which needs no model server."""
    arms = [{"name": "incumbent", "weight": 0.5, "policy": policy}, {"name": "challenger", "weight": 0.5}]
    return Laptop(folder, arms=arms, **changes)


@pytest.mark.parametrize("policy", NEEDS_NO_SERVER, ids=["baseline", "rows"])
def test_a_promotion_over_a_policy_gets_an_incumbent_server(tmp_path: Path, policy: Any) -> None:
    laptop = without_server(tmp_path, policy)
    laptop.do("promoted")
    assert laptop.answers_at() == "challenger:predict", "a promotion takes effect immediately"
    tonight = laptop.tonight()
    assert_says(laptop.settle(tonight)[0], messages.HANDED_OVER, after=WON, before=OLD)
    assert laptop.answers_at() == "incumbent:predict"
    assert laptop.versions(tonight) == {"incumbent": WON, "challenger": LATER}
    laptop.settle(tonight)
    assert laptop.happened() == ["50%", "promoted", "handed over"], "a second start must not hand over again"
    laptop.do("rolled back")
    served = laptop.folder.last_in_force()
    assert served is not None and served.arm("incumbent").policy is not None, "a rollback restores the policy"
    assert follow_rollbacks([laptop.folder], LocalServers(tonight, laptop.folder.state, PORT)) is None
    assert laptop.versions(tonight)["incumbent"] == OLD


@pytest.mark.parametrize("policy", NEEDS_NO_SERVER, ids=["baseline", "rows"])
@pytest.mark.parametrize("edited", ["before the next start", "as it is said before it", "after it"])
def test_the_next_challenger_follows_on_one_promoted_over_a_policy(tmp_path: Path, policy: Any, edited: str) -> None:
    laptop = without_server(tmp_path, policy)
    laptop.do("promoted")
    tonight = laptop.tonight()
    file = laptop.folder.file

    def follow(line: str | None = None) -> None:
        fields = yaml.safe_load(file.read_text())
        arms = fields["arms"] if line is None else [*yaml.safe_load(line), fields["arms"][1]]
        file.write_text(yaml.safe_dump({**fields, "salt": "next", "arms": arms}))

    def line() -> str:
        with pytest.raises(ExperimentError) as refused:
            state(laptop.folder)
        return str(refused.value).split("`")[1]

    if edited == "after it":
        laptop.settle(tonight)
    follow()
    if edited == "as it is said before it":
        follow(line())
        state(laptop.folder)
    laptop.settle(tonight)
    follow(line())
    assert state(laptop.folder)[1].phase == "draft"
    laptop.do("50%")
    laptop.settle(tonight)
    serving = laptop.folder.last_in_force()
    assert serving is not None
    assert [arm.url for arm in serving.arms] == [
        f"http://127.0.0.1:{PORT}/v1/models/{name}:predict" for name in ("incumbent", "challenger")
    ]
    assert laptop.versions(tonight) == {"incumbent": WON, "challenger": LATER}


@pytest.mark.parametrize("step", range(5))
def test_a_restart_recovers_from_a_crash(laptop: Laptop, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    swap, left = files._swap, iter(range(step))

    def dying(temporary: Path, path: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        swap(temporary, path)

    laptop.do("promoted")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "_swap", dying)
        laptop.settle()
    laptop.settle()
    assert laptop.versions() == {"incumbent": WON, "challenger": WON} and laptop.happened()[-1] == "handed over"
    laptop.do("rolled back")
    laptop.settle()
    assert laptop.versions()["incumbent"] == OLD


def test_urls_of_other_hosts_ports_and_models_have_no_local_server(laptop: Laptop) -> None:
    servers = LocalServers(laptop.run, laptop.folder.state, PORT)
    assert servers.name_at(f"http://localhost:{PORT}/v1/models/incumbent:predict") == "incumbent"
    for url in (
        None,
        "http://127.0.0.1:9/v1/models/incumbent:predict",
        f"http://bidder:{PORT}/v1/models/incumbent:predict",
        f"http://127.0.0.1:{PORT}/v1/models/unknown:predict",
        f"http://127.0.0.1:{PORT}/decide",
    ):
        assert servers.name_at(url) is None


def test_another_runs_model_never_answers_in_place_of_a_promoted_one(tmp_path: Path) -> None:
    """Another experiment still needs the previous incumbent's model, which must keep its server."""
    one = Laptop(tmp_path, "one", layer_part=[0, 0.5])
    others = [Laptop(tmp_path, "two", layer_part=[0.5, 1]).folder]
    one.do("promoted")
    tonight = one.tonight()
    folders = [one.folder, *others]
    with raises(ExperimentError, messages.MODEL_GONE, run=tonight, before=one.run):
        settle(folders, tonight, one.folder.state, PORT)
    settle(folders, one.run, one.folder.state, PORT)
    assert one.answers_at() == "challenger:predict"
    one.do("rolled back")
    settle(folders, tonight, one.folder.state, PORT)


@pytest.mark.parametrize("changes", [{}, {"enabled": False}, {"ramp": None, "stage": "50%"}])
def test_a_paused_or_manual_experiment_keeps_the_incumbent(tmp_path: Path, changes: dict[str, Any]) -> None:
    one = Laptop(tmp_path, "one", layer_part=[0, 0.5])
    two = Laptop(tmp_path, "two", layer_part=[0.5, 1])
    fields = {**yaml.safe_load(two.folder.file.read_text()), **changes}
    two.folder.file.write_text(yaml.safe_dump({key: value for key, value in fields.items() if value is not None}))
    if "stage" in changes:
        shutil.rmtree(two.folder.state)
    one.do("promoted")
    assert_says(settle([one.folder, two.folder], one.run, one.folder.state, PORT)[0], messages.WAITS_FOR_END)
    assert one.versions()["incumbent"] == OLD
    if not changes:
        two.do("stopped")
        settle([one.folder, two.folder], one.run, one.folder.state, PORT)
        assert one.versions()["incumbent"] == WON


def test_a_corrupt_server_record_is_restored_from_the_history(laptop: Laptop) -> None:
    laptop.do("promoted")
    laptop.settle()
    (laptop.folder.state / "models" / "incumbent.json").write_text("rubbish")
    laptop.settle()
    laptop.do("rolled back")
    assert follow_rollbacks([laptop.folder], LocalServers(laptop.run, laptop.folder.state, PORT)) is None
    assert laptop.versions()["incumbent"] == OLD


def test_a_run_that_was_moved_with_its_state_is_recognised(tmp_path: Path) -> None:
    laptop = Laptop(tmp_path / "runs" / "one")
    old = laptop.run
    laptop.do("promoted")
    new = (tmp_path / "runs" / "one").rename(tmp_path / "runs" / "moved")
    folder = ExperimentFolder.of(new / laptop.folder.file.name)
    run = new / old.relative_to(tmp_path / "runs" / "one")
    folder.state.rename(run / "state")
    moved = ExperimentFolder(folder.file, run / "state")
    assert_says(settle([moved], run, moved.state, PORT)[0], messages.HANDED_OVER)
    assert version_of(archives(run, moved.state)["incumbent.mar"]) == WON


def test_a_rollback_does_not_wait_for_an_unreadable_experiment(tmp_path: Path) -> None:
    one, two = Laptop(tmp_path, "one", layer_part=[0, 0.5]), Laptop(tmp_path, "two", layer_part=[0.5, 1])
    two.do("stopped")
    folders = [two.folder, one.folder]
    one.do("promoted")
    settle(folders, one.run, one.folder.state, PORT)
    assert one.versions()["incumbent"] == WON
    two.folder.file.write_text("rubbish")
    two.folder.history.write_text("rubbish\n")
    one.do("rolled back")
    assert_says(follow_rollbacks(folders, LocalServers(one.run, one.folder.state, PORT)), NO_EVENT)
    assert one.versions()["incumbent"] == OLD
