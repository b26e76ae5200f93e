"""A new version of an arm's model goes to its server: it is asked for, waited for, asked for a decision, or taken back.

    said = deploy(servers, "challenger", "challenger/0a1b2c3d4e5f", load(artifact), experiments, seconds=600)

Never under an experiment that has begun to serve people: another model in mid-experiment is another treatment, and no
figure of the one before holds for it. Nor where the incumbent answers, as after a promotion until its own server has
the model: everybody would get what nobody has tried. Such a version stays in the registry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from mtorl.artifact.artifact import Artifact
from mtorl.experiment.arm import HOLDOUT, INCUMBENT, Arm
from mtorl.experiment.experiment import Experiment
from serving.handlers.items import empty_window

HOST = "mtorl-{arm}-predictor"
"""At which the server of an arm of the manifests answers."""
_POLL_SECONDS = 2.0
_TELL_SECONDS = 60.0


class Told(NamedTuple):
    """What a server was told to serve.

    Attributes:
        version: Folder of the version in the registry.
        instead_of: The one of before, while it has not proved that it decides: who is killed meanwhile leaves it here
            for the next run. None: it has.
    """

    version: str
    instead_of: str | None = None


class DeployError(RuntimeError):
    """A version does not serve; the message says why, and what serves instead."""


class Servers(Protocol):
    """The model servers of one place."""

    def told(self, arm: str) -> Told | None:
        """What an arm's server is told to serve; None: it has no server here.

        Raises:
            DeployError: Nobody says; so the other methods, but `ask`.
        """

    def serve(self, arm: str, told: Told) -> None:
        """Tell it."""

    def problem(self, arm: str, version: str) -> str:
        """Why it does not serve this version, and nothing else; empty: it does."""

    def ask(self, arm: str, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its decision on an item. Raises whatever an answer that is none leads to."""


def deploy(
    servers: Servers,
    arm: str,
    version: str,
    artifact: Artifact,
    experiments: Iterable[Experiment],
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Roll a version out to an arm's server; returns what was done, in words.

    Args:
        servers: Of the place.
        arm: Whose servers.
        version: Folder of the version in the registry, ARM/VERSION.
        artifact: Its model, whose digest its answers must carry.
        experiments: Those that are in force.
        seconds: How long it may take to be ready.
        sleep: Waits.
        clock: Seconds.

    Raises:
        DeployError: It does not serve; the one of before does again.
    """
    for experiment in experiments:
        for one in _at(experiment, arm):
            if used := _used_for(one, experiment):
                return f"left alone: {used}. {version} stays in the registry until that is over"
            if one.model_digest and not artifact.digest.startswith(one.model_digest):
                raise DeployError(
                    f"{experiment.name} expects the model {one.model_digest} of {one.name}, and {version} is "
                    f"{artifact.digest[:12]}: take model_digest out of its file, or name the new one"
                )
    told = servers.told(arm)
    if told is None:
        return f"there is no server of {arm} here: {version} stays in the registry (docs/cluster.md)"
    new = told.version != version
    before = told.instead_of or (told.version if new else None)  # what has proved that it decides
    if new:
        _tell(servers, arm, Told(version, before), sleep, clock)
    why = _waits(servers, arm, version, seconds, sleep, clock) or _refuses(servers, arm, artifact)
    if not why:
        if before is not None:
            _tell(servers, arm, Told(version), sleep, clock)
        return f"{arm} serves {version}" + ("" if new else ", as before")
    if before is None:
        raise DeployError(f"{arm} does not serve {version}: {why}")
    _tell(servers, arm, Told(before), sleep, clock)
    raise DeployError(f"{version} does not serve: {why}; {arm} serves {before} again")


def experiments_in(path: Path) -> list[Experiment]:
    """The experiments in force where routers read them: a file, or a folder with several.

    Raises:
        ExperimentError: a file can't be used: who knows what is under test?
    """
    files = sorted(path.glob("[!.]*.yaml")) if path.is_dir() else [path] if path.exists() else []
    return [Experiment.load(file) for file in files]


def _at(experiment: Experiment, name: str) -> list[Arm]:
    """Arms of an experiment that answer at the server of an arm of the manifests."""
    kept = [experiment.promotion.before] if experiment.promotion is not None else []
    hosts = [(one, (urlsplit(one.url).hostname if one.url else None) or "") for one in (*experiment.arms, *kept)]
    return [one for one, host in hosts if host.partition(".")[0] == HOST.format(arm=name)]


def _used_for(arm: Arm, experiment: Experiment) -> str:
    """Whom another model would be given to unasked, in words; empty: nobody."""
    if experiment.stage != "shadow":  # also while the kill switch is on: the experiment goes on afterwards
        return f"{experiment.name} is at {experiment.stage}, and {arm.name} is under test"
    if arm.name in (INCUMBENT, HOLDOUT):  # a promoted challenger is everybody's, until the incumbent's server has it
        return f"the {arm.name} of {experiment.name} answers there"
    return ""


def _waits(
    servers: Servers, arm: str, version: str, seconds: float, sleep: Callable[[float], None], clock: Callable[[], float]
) -> str:
    """Why a version is not ready in time; empty: it is."""
    until = clock() + seconds
    while why := _problem(servers, arm, version):
        if clock() >= until:
            return f"not ready after {seconds:g} s: {why}"
        sleep(_POLL_SECONDS)
    return ""


def _problem(servers: Servers, arm: str, version: str) -> str:
    try:
        return servers.problem(arm, version)
    except DeployError as error:  # for a moment, perhaps
        return str(error)


def _tell(servers: Servers, arm: str, told: Told, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
    """Tell a server what to serve; for some time, if nobody listens."""
    until = clock() + _TELL_SECONDS
    while True:
        try:
            return servers.serve(arm, told)
        except DeployError:
            if clock() >= until:
                raise
        sleep(_POLL_SECONDS)


def _refuses(servers: Servers, arm: str, artifact: Artifact) -> str:
    """Why a ready server does not decide by a model; empty: it does."""
    try:
        found = servers.ask(arm, {"window": empty_window(artifact.spec), "u": 0.5})
        answered = str(found["model"]["digest"])
        probabilities = [float(one) for one in found["channel_probs"].values()]
    except Exception as error:  # an answer may be any rubbish, and half of one
        return f"its answer is no decision: {type(error).__name__}: {error}"
    if answered != artifact.digest:
        return f"it answers by the model {answered[:12]}, not by {artifact.digest[:12]}"
    if abs(sum(probabilities) - 1.0) > 1e-6:
        return f"its probabilities of channels add up to {sum(probabilities):.6f}"
    return ""
