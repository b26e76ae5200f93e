"""Tests that upgrade an installation from an earlier release and downgrade it again, while callers send requests.

$BEFORE names a checkout of the earlier release, in which `images.yaml` has the output of `scripts/images.sh load`. The
tests also need $IMAGES, and take 15 minutes on two CPUs. Each test continues from the state that the previous test
left.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from tests.cluster.experiment_pods import COST, NAME, ROUTERS, Pods
from tests.cluster.kubectl import Object, kubectl, listed
from tests.cluster.running import decided, image_of
from tests.manifests.conftest import MANIFESTS
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.node]

TARGETS = ("foundation/dev", "overlays/dev")
# Seconds of requests around each change of the release.
CALLS = 240


class Releases(Pods):
    """An installation of an earlier release, which the tests upgrade."""

    def __init__(self, folder: Path, before: Path, images: list[Object]) -> None:
        old: list[Object] = yaml.safe_load((before / "images.yaml").read_text())["images"]
        self.places = {"before": (before / "manifests", old), "this": (MANIFESTS, images)}
        self.manifests = before / "manifests"
        super().__init__(folder, old)

    def change_to(self, release: str) -> None:
        self.manifests, images = self.places[release]
        self.further["images"] = images
        for target in TARGETS if release == "this" else TARGETS[1:]:
            self.apply(target)
        wanted = {image_of(images, one["name"].rpartition("/")[2]) for one in images}
        eventually(lambda: not self.pods_not_of(wanted), 600, self.state)
        for kind in ("statefulset", "deployment"):
            for one in listed(self.namespace, kind):
                words = ("rollout", "status", f"{kind}/{one['metadata']['name']}", "--timeout=300s")
                kubectl("-n", self.namespace, *words)
        eventually(lambda: not self.pods_not_of(wanted), 300, self.state)

    def pods_not_of(self, images: set[str]) -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in listed(self.namespace, "pod")
            if pod["metadata"].get("ownerReferences", [{}])[0].get("kind") not in (None, "Job")
            and {one["image"] for one in pod["spec"]["containers"]} - images
        ]

    @contextmanager
    def under_traffic(self) -> Iterator[None]:
        """Send requests during the block. Each must be answered, rejected with a 503, or fail to connect."""
        with ThreadPoolExecutor(1) as pool:
            calls = self.calls(pool, CALLS)
            yield
            calls.result()
        assert {one["status"] for one in self.said} <= {0, 200, 503}

    def arms_of_users(self) -> dict[str, str]:
        return {one["user_id"]: one["arm"] for one in decided(self.call(30, uuid4().hex))}

    def expenses(self) -> float:
        return COST * sum(event.endswith("-cost") for event in self.reported())


@pytest.fixture(scope="module")
def releases(images: list[Object], tmp_path_factory: pytest.TempPathFactory, ended: list[str]) -> Releases:
    if not os.environ.get("BEFORE"):
        pytest.skip("set BEFORE to a checkout of an earlier release with its images.yaml (tests/README.md)")
    before = Path(os.environ["BEFORE"])
    made = Releases(tmp_path_factory.mktemp("releases"), before, images)
    ended += [made.namespace, made.gateway]
    made.install("overlays/dev")
    made.bootstrap()
    spec = yaml.safe_load((before / "manifests" / "examples" / "experiment.yaml").read_text())["spec"]
    budgets = [{"campaign": "*", "channel": "*", "amount": 1000}]
    ramp = {"stages": [{"stage": "shadow", "hours": 1000}, {"stage": "50%", "hours": 1000}], "fallback_ratio": 0.5}
    made.people.apply(NAME, {**spec, "salt": "upgrade", "budgets": budgets, "ramp": ramp})
    made.people.move(NAME, "50%", "agreed on Monday")
    made.people.wait_for_phase("50%", NAME, seconds=180, state=made.state)
    eventually(made.is_in_force, 180, made.state)
    return made


def test_an_upgrade_under_traffic_keeps_arms_models_and_experiment(releases: Releases) -> None:
    arms, models = releases.arms_of_users(), releases.models()
    assert set(arms.values()) == {"incumbent", "challenger"}
    with releases.under_traffic():
        releases.change_to("this")
    assert releases.people.phase(NAME) == "50%" and releases.people.kinds(NAME) == ["move"]
    eventually(releases.is_in_force, 180, releases.state)
    after = releases.arms_of_users()
    assert after and {user: arms.get(user, arm) for user, arm in after.items()} == after
    assert eventually(lambda: releases.models() == models, 120, releases.models)


def test_the_ledger_keeps_every_expense_of_the_earlier_release(releases: Releases) -> None:
    assert releases.expenses() > 0
    eventually(lambda: releases.spent() == pytest.approx(releases.expenses()), 120, releases.spent)


def test_an_apply_of_the_same_release_changes_nothing(releases: Releases) -> None:
    pods = releases.uids("pod")
    for target in TARGETS:
        assert not releases.differences(target)
    assert {name: releases.uids("pod").get(name) for name in ROUTERS} == {name: pods[name] for name in ROUTERS}


def test_the_way_back_under_traffic_keeps_arms_and_experiment(releases: Releases) -> None:
    arms, models = releases.arms_of_users(), releases.models()
    with releases.under_traffic():
        releases.change_to("before")
    assert releases.people.phase(NAME) == "50%"
    eventually(releases.is_in_force, 180, releases.state)
    after = releases.arms_of_users()
    assert after and {user: arms.get(user, arm) for user, arm in after.items()} == after
    assert eventually(lambda: releases.models() == models, 120, releases.models)


def test_after_a_second_upgrade_every_decision_and_expense_is_there(releases: Releases) -> None:
    with releases.under_traffic():
        releases.change_to("this")
    eventually(lambda: releases.spent() == pytest.approx(releases.expenses()), 120, releases.spent)
    eventually(lambda: releases.decided() <= releases.uploaded(), 240)
    assert releases.people.phase(NAME) == "50%"
