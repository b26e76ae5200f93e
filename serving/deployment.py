"""Deploys a new model version to an arm's server: rolls it out, tests a decision, and rolls back on failure.

A server in a running experiment keeps its version, because another model would distort the results.
"""

import time
from collections.abc import Iterable

from mtorl.artifact.artifact import Artifact
from mtorl.experiment.arm import INCUMBENT, Arm
from mtorl.experiment.experiment import Experiment
from mtorl.runtime.errors import InputError
from mtorl.runtime.message import Message
from serving import messages
from serving.handlers.items import empty_window
from serving.inference_services import InferenceServices
from serving.kubernetes_api import Conflict, Refused
from serving.model_servers import Served
from serving.registry import FIRST

_POLL_SECONDS = 2.0
_TELL_SECONDS = 60.0


class DeployError(InputError, RuntimeError):
    """Raised if a version could not be deployed."""


def deploy(
    servers: InferenceServices,
    arm: str,
    version: str,
    artifact: Artifact,
    experiments: Iterable[Experiment],
    seconds: float,
) -> str:
    """Roll a version out to the server of an arm, `mtorl-ARM`; returns a message about the result.

    If the rollout or the test decision fails, the previous version is restored, and DeployError is raised.

    Args:
        version: Folder of the version in the registry, ARM/VERSION.
        artifact: The model of this version.
        seconds: Timeout of the rollout.
    """
    name = f"mtorl-{arm}"
    for experiment in experiments:
        for one in _at(servers, experiment, name):
            if used := _used_for(one, experiment, name, version):
                return used
            if (expected := one.model_digest) and not artifact.digest.startswith(expected):
                about = {"arm": one.name, "expected": expected, "found": artifact.digest[:12], "version": version}
                raise DeployError(messages.OTHER_DIGEST(experiment=experiment.name, **about))
    try:
        served = servers.served(name)
    except OSError as error:
        raise DeployError(error.args[-1]) from None
    if served is None:
        return messages.NO_SERVER(version=version, server=name)
    new, before = served.version != version, served.instead_of
    if new:
        # If the previous deployment was killed before its test, roll back to the version before it.
        killed = before is not None and (served.problem or _refuses(servers, name, artifact, served.version))
        before = before if killed else served.version
        _serve(servers, name, Served(version, "", instead_of=before), {served.version})
    why = _waits(servers, name, version, seconds) or _refuses(servers, name, artifact, artifact.digest)
    if not why:
        return f"{arm} serves {version}" + ("" if new else ", as before")
    if before is None:
        raise DeployError(messages.DOES_NOT_SERVE(arm=arm, version=version, why=why))
    _serve(servers, name, Served(before, ""), {version})
    raise DeployError(messages.ROLLED_BACK(arm=arm, version=version, why=why, before=before))


def _at(servers: InferenceServices, experiment: Experiment, name: str) -> list[Arm]:
    return [one for one in experiment.arms if servers.name_at(one.url) == name]


def _used_for(arm: Arm, experiment: Experiment, server: str, version: str) -> Message | None:
    """Return why another model must not be deployed; None if it may."""
    about = {"version": version, "experiment": experiment.name}
    # a switched-off experiment may be switched on again
    if experiment.stage != "shadow":
        return messages.UNDER_TEST(stage=experiment.stage, arm=arm.name, **about)
    # After a promotion, the challenger's server acts as the incumbent's.
    if arm.name == INCUMBENT:
        return messages.SERVES_INCUMBENT(server=server, **about)
    return None


def _waits(servers: InferenceServices, name: str, version: str, seconds: float) -> str:
    """Wait until a server serves a version; returns the reason after a timeout."""
    until = time.monotonic() + seconds
    while why := _problem(servers, name, version):
        if time.monotonic() >= until:
            return messages.NOT_READY(seconds=seconds, why=why)
        time.sleep(_POLL_SECONDS)
    return ""


def _problem(servers: InferenceServices, name: str, version: str) -> str:
    try:
        served = servers.served(name)
    except OSError as error:  # may be temporary
        return str(error)
    if served is None or served.version != version:
        return f"{name} is now set to serve {'nothing' if served is None else served.version}"
    return served.problem


def _serve(servers: InferenceServices, name: str, wanted: Served, instead: set[str]) -> None:
    """Set the version of a server, unless a person has changed it meanwhile; retry failed requests for a minute."""
    until = time.monotonic() + _TELL_SECONDS
    while True:
        try:
            served = servers.served(name)
            if served is None or served.version not in instead | {wanted.version}:
                now = "nothing" if served is None else served.version
                raise DeployError(messages.CHANGED_MEANWHILE(server=name, now=now))
            return servers.serve(name, wanted.version, instead_of=wanted.instead_of)
        except (OSError, Conflict) as error:
            if isinstance(error, Refused) or time.monotonic() >= until:  # a retry would be refused again
                about = {"server": name, "version": wanted.version}
                raise DeployError(messages.NOT_CHANGED(**about, error=error.args[-1])) from None
        time.sleep(_POLL_SECONDS)


def _refuses(servers: InferenceServices, name: str, artifact: Artifact, model: str) -> str:
    """Request a test decision from a server; returns why the decision is not valid, or an empty text."""
    digest = model.rpartition("/")[2].removeprefix(FIRST)
    try:
        found = servers.predict(name, {"window": empty_window(artifact.spec), "u": 0.5})
        answered = str(found["model"]["digest"])
        probabilities = [float(one) for one in found["channel_probs"].values()]
    except Exception as error:  # an invalid answer may cause any exception
        return messages.NO_DECISION(error=f"{type(error).__name__}: {error}")
    if not answered.startswith(digest):
        return messages.NO_DECISION(error=f"it comes from model {answered[:12]}, not from {digest[:12]}")
    if abs(total := sum(probabilities) - 1.0) > 1e-6:
        return messages.NO_DECISION(error=f"channel probabilities add up to {1.0 + total:.6f}")
    return ""
