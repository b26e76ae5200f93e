"""Tests that a rollout keeps a new version only if it decides."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import state_of
from mtorl.experiment.stage_machine import Phase, in_force
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.message import Words
from serving import messages
from serving.deployment import DeployError, deploy
from serving.inference_services import INSTEAD_OF, VERSION, InferenceServices, problem_of
from serving.kubernetes_api import Refused
from serving.model_servers import Served
from tests.messages import assert_says, raises
from tests.mtorl.experiment.experiments import after, made
from tests.pipelines.experiments.fake_cluster import FakeCluster

NEW, OLD, DIGEST = "challenger/new", "challenger/old", "d" * 64
ARTIFACT: Any = SimpleNamespace(digest=DIGEST, spec=DatasetSpec.load("simulator"))


def told(version: str, instead_of: str | None = None) -> Served:
    return Served(version, "", None, instead_of)


class Servers(InferenceServices):
    """Fake model servers, whose new version is ready after `looks` reads of its status."""

    def __init__(
        self, version: str | None = OLD, looks: int = 3, answer: Any = None, instead_of: str | None = None
    ) -> None:
        super().__init__(FakeCluster())
        self.all = [None if version is None else told(version, instead_of)]
        self._left = looks
        # Number of calls that fail as if the API server did not answer
        self.away = 0
        self._answer = answer if answer is not None else {"model": {"digest": DIGEST}, "channel_probs": {"a": 1.0}}

    def served(self, name: str) -> Served | None:
        assert name == "mtorl-challenger"
        self._answers()
        found = self.all[-1]
        if found is None:
            return None
        self._left -= 1
        return found._replace(problem="" if self._left <= 0 else "a pod starts")

    def serve(self, name: str, version: str, mark: Any = None, instead_of: str | None = None) -> None:
        self._answers()
        self.all.append(told(version, instead_of))

    def _answers(self) -> None:
        if len(self.all) > 1 and self.away > 0:
            self.away -= 1
            raise OSError("silence")

    def predict(self, name: str, item: Mapping[str, Any]) -> Mapping[str, Any]:
        assert set(item) == {"window", "u"}
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer  # type: ignore[no-any-return]


def at(stage: str, **changes: Any) -> Experiment:
    arms = [
        {"name": "incumbent", "weight": 0.5, "endpoint": "http://mtorl-incumbent-predictor"},
        {"name": "challenger", "weight": 0.5, "endpoint": "http://mtorl-challenger-predictor.ads.svc", **changes},
    ]
    return made(stage=stage, arms=arms)


def run(servers: InferenceServices, *experiments: Experiment, version: str = NEW) -> str:
    return deploy(servers, "challenger", version, ARTIFACT, experiments, 60.0)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = iter(range(0, 100_000, 2))
    clock = SimpleNamespace(sleep=lambda _: None, monotonic=lambda: next(passed))
    monkeypatch.setattr("serving.deployment.time", clock)


@pytest.mark.parametrize(  # the last experiment uses other servers
    "experiments", [(), (at("shadow"),), (at("shadow", model_digest="dddd"),), (made(stage="50%"),)]
)
def test_a_version_that_decides_serves(experiments: tuple[Experiment, ...]) -> None:
    servers = Servers()
    assert run(servers, *experiments) == f"challenger serves {NEW}"
    assert servers.all == [told(OLD), told(NEW, OLD)], "one rollout"
    assert run(servers, *experiments) == f"challenger serves {NEW}, as before"
    assert len(servers.all) == 2, "no second rollout"


@pytest.mark.parametrize("stage", ["1%", "5%", "25%", "50%"])
def test_under_an_experiment_that_serves_users_nothing_changes(stage: str) -> None:
    servers = Servers()
    # The kill switch may be switched off later, so it makes no difference.
    for found in (at(stage), at(stage).replace(enabled=False)):
        assert_says(run(servers, found), messages.UNDER_TEST, experiment="mtorl-vs-rules", stage=stage)
    assert servers.all == [told(OLD)]


@pytest.mark.parametrize("phase", ["promoted", "stopped", "rolled back"])
def test_the_server_of_a_promoted_model_is_not_changed(phase: Phase) -> None:
    """After a promotion, this server answers as the incumbent until the incumbent's own has the model."""
    experiment = at("50%")
    moves = {"promoted": ["promoted"], "stopped": ["stopped"], "rolled back": ["promoted", "rolled back"]}[phase]
    servers, standing = Servers(), in_force(experiment, state_of(after("50%", *moves, file=experiment), experiment))
    assert standing.stage == "shadow" and not standing.enabled
    if phase == "promoted":
        assert_says(run(servers, standing), messages.SERVES_INCUMBENT, server="mtorl-challenger")
        assert servers.all == [told(OLD)]
    else:
        assert run(servers, standing) == f"challenger serves {NEW}"


def test_without_a_server_there_is_nothing_to_do() -> None:
    assert_says(run(Servers(version=None)), messages.NO_SERVER, server="mtorl-challenger")


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (None, "a pod starts"),
        ({"model": {"digest": "e" * 64}, "channel_probs": {"a": 1.0}}, "eeee"),
        ({"model": {"digest": DIGEST}, "channel_probs": {"a": 0.5}}, "0.5"),
        (["rubbish"], "TypeError"),
        ({"error": "no timestamp"}, "KeyError"),
        (OSError("no route"), "OSError: no route"),
    ],
)
def test_a_version_that_does_not_decide_is_rolled_back(answer: Any, detail: str) -> None:
    servers = Servers(answer=answer, looks=3 if answer else 1_000)
    with pytest.raises(DeployError, match=detail) as error:
        run(servers)
    assert_says(error.value, messages.ROLLED_BACK, version=NEW, before=OLD)
    assert_says(error.value.args[0].values["why"], messages.NO_DECISION if answer else messages.NOT_READY)
    assert servers.all == [told(OLD), told(NEW, OLD), told(OLD)]


@pytest.mark.parametrize("rolled_out", [NEW, "challenger/killed-too"])
def test_the_next_run_repairs_what_a_killed_run_left(rolled_out: str) -> None:
    """The killed run rolled out a version without waiting for its first decision."""
    good = Servers(rolled_out, instead_of=OLD)
    bad = Servers(rolled_out, looks=1_000, instead_of=OLD)
    assert run(good).startswith(f"challenger serves {NEW}") and good.all[-1] == told(NEW, OLD)
    with raises(DeployError, messages.ROLLED_BACK, before=OLD):
        run(bad)
    assert bad.all[-1] == told(OLD)


@pytest.mark.parametrize("decided", ["challenger/dddddddddddd", "challenger/first"])
def test_a_deployment_rolls_back_to_the_version_that_decides(decided: str) -> None:
    servers = Servers(decided, looks=1, instead_of=OLD)
    assert run(servers) == f"challenger serves {NEW}" and servers.all[-1] == told(NEW, decided)


def test_a_deployment_survives_an_outage_of_the_api_server() -> None:
    servers = Servers()
    servers.away = 5
    assert run(servers) == f"challenger serves {NEW}"
    servers = Servers(answer=OSError("connection refused"), looks=1)
    servers.away = 3
    with raises(DeployError, messages.ROLLED_BACK, before=OLD):
        run(servers)
    assert servers.all[-1] == told(OLD)
    servers = Servers(looks=1)
    servers.away = 10_000
    with raises(DeployError, messages.NOT_CHANGED, error="silence"):
        run(servers)
    assert servers.all[-1] == told(NEW, OLD), "the next run knows what served before"


@pytest.mark.parametrize(("status", "why"), [(403, messages.FORBIDDEN), (422, messages.KUBERNETES_REFUSES)])
def test_a_request_that_the_api_server_refuses_is_not_retried(status: int, why: Words) -> None:
    class Denied(Servers):
        def serve(self, name: str, version: str, mark: Any = None, instead_of: str | None = None) -> None:
            self.all.append(told(version, instead_of))
            raise Refused(status, "no")

    servers = Denied()
    with raises(DeployError, messages.NOT_CHANGED, version=NEW, error=why(status=status, reason="no")):
        run(servers)
    assert servers.all == [told(OLD), told(NEW, OLD)], "once"


def test_a_digest_other_than_the_experiments_is_refused_before_any_change() -> None:
    servers = Servers()
    with raises(DeployError, messages.OTHER_DIGEST, expected="eeee", version=NEW, found="d" * 12):
        run(servers, at("shadow", model_digest="eeee"))
    assert servers.all == [told(OLD)]


def test_a_version_that_a_person_rolled_out_meanwhile_stays() -> None:
    class Changed(Servers):
        def predict(self, name: str, item: Mapping[str, Any]) -> Mapping[str, Any]:
            self.all.append(told("challenger/by-hand"))
            return super().predict(name, item)

    servers = Changed(answer=["rubbish"])
    with raises(DeployError, messages.CHANGED_MEANWHILE, now="challenger/by-hand"):
        run(servers)
    assert servers.all[-1] == told("challenger/by-hand")


def test_a_write_conflict_with_kserve_is_retried() -> None:
    """KServe keeps writing the object's status, so each retry must read the object again."""

    class Busy(FakeCluster):
        def get(self, kind: str, name: str) -> Any:
            found = super().get(kind, name)
            if kind == "inferenceservices" and not self.told and self.requests < 6:
                self.services[name]["metadata"]["resourceVersion"] = str(self._next())
            elif kind == "inferenceservices":
                self.roll_out(name)
            return found

    cluster, answers = Busy(), Servers()
    cluster.add_service("mtorl-challenger", OLD)
    servers = InferenceServices(cluster)
    servers.predict = answers.predict  # type: ignore[method-assign]
    assert run(servers) == f"challenger serves {NEW}"
    assert cluster.told == [NEW]
    assert cluster.services["mtorl-challenger"]["metadata"]["annotations"] == {INSTEAD_OF: OLD}


def test_a_rollout_is_complete_when_all_pods_are_new_and_ready() -> None:
    annotations = {VERSION: NEW}
    status = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    spec = {"replicas": 1, "template": {"metadata": {"annotations": annotations}}}
    done = {"metadata": {"generation": 2}, "spec": spec, "status": status}
    assert problem_of(done, NEW) == ""
    for deployment, wanted in ((None, NEW), (done, OLD), (done | {"metadata": {"generation": 3}}, NEW)):
        assert_says(problem_of(deployment, wanted), messages.NOT_BEGUN)
    lacking = problem_of(done | {"status": status | {"availableReplicas": 0}}, NEW)
    assert_says(lacking, messages.PODS_AWAITED, ready=0, total=1)
