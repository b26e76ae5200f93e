"""Deploys a new version to an arm's server: rolls it out, waits, requests a decision, or rolls back.

    said = deploy(InferenceServices(KubernetesApi()), "challenger", "challenger/0a1b2c3d4e5f", load(artifact),
                  experiments, seconds=600)

It never changes a server under an experiment that serves users: another model in mid-experiment is another treatment.
Nor does it change one that answers as the incumbent, as after a promotion until the incumbent's own server has the
model: all users would get an untried model. Such a version stays in the registry.
"""

import time
from collections.abc import Iterable

from mtorl.artifact.artifact import Artifact
from mtorl.experiment.arm import INCUMBENT, Arm
from mtorl.experiment.experiment import Experiment
from mtorl.runtime.errors import InputError
from serving.handlers.items import empty_window
from serving.inference_services import InferenceServices
from serving.kubernetes_api import Conflict, Refused
from serving.model_servers import Served
from serving.registry import FIRST

_POLL_SECONDS = 2.0
_TELL_SECONDS = 60.0


class DeployError(InputError, RuntimeError):
    """A version does not serve; the message has the reason, and the version that serves instead."""


def deploy(
    servers: InferenceServices,
    arm: str,
    version: str,
    artifact: Artifact,
    experiments: Iterable[Experiment],
    seconds: float,
) -> str:
    """Roll a version out to an arm's server, `mtorl-ARM`; returns the result in words.

    Args:
        version: Folder of the version in the registry, ARM/VERSION.
        artifact: Its model, whose digest its answers must carry.
        seconds: Longest time until it is ready; after that, DeployError: the previous version serves again.
    """
    name = f"mtorl-{arm}"
    for experiment in experiments:
        for one in _at(servers, experiment, name):
            if used := _used_for(one, experiment):
                return f"not deployed: {used}. {version} stays in the registry until that is over"
            if one.model_digest and not artifact.digest.startswith(one.model_digest):
                raise DeployError(
                    f"{experiment.name} expects the model {one.model_digest} of {one.name}, and {version} is "
                    f"{artifact.digest[:12]}: take model_digest out of its file, or name the new one"
                )
    try:
        served = servers.served(name)
    except OSError as error:
        raise DeployError(_explained(error)) from None
    if served is None:
        return f"there is no server of {arm} here: {version} stays in the registry (docs/cluster.md)"
    new, before = served.version != version, served.instead_of
    if new:
        # A deployment that was killed before it had asked its version leaves one that perhaps never decided.
        killed = before is not None and (served.problem or _refuses(servers, name, artifact, served.version))
        before = before if killed else served.version
        _serve(servers, name, Served(version, "", instead_of=before), {served.version})
    why = _waits(servers, name, version, seconds) or _refuses(servers, name, artifact, artifact.digest)
    if not why:
        return f"{arm} serves {version}" + ("" if new else ", as before")
    if before is None:
        raise DeployError(f"{arm} does not serve {version}: {why}")
    _serve(servers, name, Served(before, ""), {version})
    raise DeployError(f"{version} does not serve: {why}; {arm} serves {before} again")


def _at(servers: InferenceServices, experiment: Experiment, name: str) -> list[Arm]:
    return [one for one in experiment.arms if servers.name_at(one.url) == name]


def _used_for(arm: Arm, experiment: Experiment) -> str:
    """The users that another model would reach unasked, in words; empty: there are none."""
    if experiment.stage != "shadow":  # also while the kill switch is on: the experiment goes on afterwards
        return f"{experiment.name} is at {experiment.stage}, and {arm.name} is under test"
    if arm.name == INCUMBENT:  # a promoted challenger is everybody's, until the incumbent's server has it
        return f"the {arm.name} of {experiment.name} answers there"
    return ""


def _waits(servers: InferenceServices, name: str, version: str, seconds: float) -> str:
    """Reason why a version is not ready in time; empty: it is."""
    until = time.monotonic() + seconds
    while why := _problem(servers, name, version):
        if time.monotonic() >= until:
            return f"not ready after {seconds:g} s: {why}"
        time.sleep(_POLL_SECONDS)
    return ""


def _problem(servers: InferenceServices, name: str, version: str) -> str:
    try:
        served = servers.served(name)
    except OSError as error:  # perhaps for a moment
        return str(error)
    if served is None or served.version != version:
        return f"{name} is meant to serve {'nothing' if served is None else served.version} now"
    return served.problem


def _serve(servers: InferenceServices, name: str, wanted: Served, instead: set[str]) -> None:
    """Let a server serve a version, with retries for a minute; one that a person rolled out meanwhile stays."""
    until = time.monotonic() + _TELL_SECONDS
    while True:
        try:
            served = servers.served(name)
            if served is None or served.version not in instead | {wanted.version}:
                now = "nothing" if served is None else served.version
                raise DeployError(f"{name} serves {now} since somebody changed it meanwhile: that stays")
            return servers.serve(name, wanted.version, instead_of=wanted.instead_of)
        except (OSError, Conflict) as error:
            if isinstance(error, Refused) or time.monotonic() >= until:  # what is refused once is refused again
                raise DeployError(f"{name} can't be made to serve {wanted.version}: {_explained(error)}") from None
        time.sleep(_POLL_SECONDS)


def _explained(error: Exception) -> str:
    denied = isinstance(error, Refused) and error.status == 403
    role = "; give the run's service account the role of manifests/pipelines/platform/access.yaml"
    return f"{error}{role if denied else ''}"


def _refuses(servers: InferenceServices, name: str, artifact: Artifact, model: str) -> str:
    """Fault of a ready server's decision by a model (digest or version; of `first`, any will do); empty: none."""
    digest = model.rpartition("/")[2].removeprefix(FIRST)
    try:
        found = servers.ask(name, {"window": empty_window(artifact.spec), "u": 0.5})
        answered = str(found["model"]["digest"])
        probabilities = [float(one) for one in found["channel_probs"].values()]
    except Exception as error:  # an answer may be any rubbish, and half of one
        return f"its answer is no decision: {type(error).__name__}: {error}"
    if not answered.startswith(digest):
        return f"it answers by the model {answered[:12]}, not by {digest[:12]}"
    if abs(sum(probabilities) - 1.0) > 1e-6:
        return f"its probabilities of channels add up to {sum(probabilities):.6f}"
    return ""
