"""A person names the version that a model server serves, where no experiment does: a promotion without one.

    print(promote(servers, "incumbent", "0a1b2c3d4e5f", digest, experiments, time.time()))
    print(roll_back(servers, "incumbent", experiments))

It is told to the server in the same way as after a promotion of an experiment, with a mark of which version it served
before. What an experiment compares, or may still roll back, is that experiment's to change: then this refuses, and says
by which command.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import Event, newest_promotion
from pipelines.experiments.handover import Mark, ModelServers, Served

BY_HAND = "(by hand)"
"""In place of an experiment's name in a mark: no experiment is called so."""


class ByHandError(ValueError):
    """A server can't be told, or has nothing to go back to; the message says why."""


class ComparedError(ByHandError):
    """An experiment is about what the server serves; the message has the command to use instead."""


class Compared(NamedTuple):
    """An experiment that routers read, and what people do to it."""

    experiment: Experiment
    goes_on: bool
    """Whether it compares, also while its kill switch is on."""
    pinned: str | None
    """Beginning of the digest of the model that must answer as its incumbent; null: any may."""
    pending: str | None
    """Where its incumbent answered before a promotion that servers are yet to follow; None: there is none."""
    end: str
    """Command that ends it."""
    roll_back: str
    """Command that takes its promotion back."""


def pending(events: Sequence[Event]) -> str | None:
    """Where the incumbent answered before a promotion that servers are yet to follow; None: there is none.

    Args:
        events: All of a history.
    """
    newest = newest_promotion(events)
    if newest is None or newest.rolled_back or newest.handed_over:
        return None
    return (newest.event.replaced or {}).get("endpoint")


def promote(
    servers: ModelServers, name: str, version: str, digest: str, experiments: Sequence[Compared], now: float
) -> str:
    """Let a server serve a version; returns what was done, in words.

    Args:
        servers: The model servers.
        name: Of the server.
        version: As the server calls it.
        digest: Of its model.
        experiments: What routers read, all of it.
        now: Seconds since 1970.

    Raises:
        ComparedError: An experiment is about what the server serves.
        ByHandError: There is no such server.
        OSError: It can't be asked or told now.
    """
    target = _served(servers, name)
    _check_free(servers, name, experiments)
    for other in experiments:
        incumbent, pinned = other.experiment.arm(INCUMBENT), other.pinned
        if pinned is not None and servers.name_at(incumbent.url) == name and not digest.startswith(pinned):
            raise ComparedError(
                f"{other.experiment.name} is over, and its incumbent at {name} must be model {pinned}, or nobody gets "
                "more than the default action: leave that digest out of its file, under a new salt"
            )
    if target.version == version:
        return f"{name} serves {version} already" + (f": {target.problem}" if target.problem else "")
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    servers.serve(name, version, Mark(experiment=BY_HAND, promotion=at, before=target.version, after=version))
    return f"{name} is to serve {version} in place of {target.version}"


def roll_back(servers: ModelServers, name: str, experiments: Sequence[Compared]) -> str:
    """Let a server serve again what it did before the newest `promote`; returns what was done, in words.

    Args:
        servers: The model servers.
        name: Of the server.
        experiments: What routers read, all of it.

    Raises:
        ComparedError: An experiment is about what the server serves.
        ByHandError: There is no such server, or nothing was promoted by hand since.
        OSError: It can't be asked or told now.
    """
    target = _served(servers, name)
    _check_free(servers, name, experiments)
    mark = target.mark
    if mark is not None and mark.experiment != BY_HAND:
        raise ComparedError(
            f"{mark.experiment} has promoted what {name} serves: roll that back by mtorl experiment rollback, or by "
            "the field move of an object; or name a version: mtorl model promote"
        )
    if mark is None:
        raise ByHandError(
            f"nobody has noted what {name} served before {target.version}: name a version (mtorl model list), and "
            "promote it"
        )
    if target.version != mark.after:
        words = "was rolled back already" if target.version == mark.before else f"serves {target.version} by now"
        raise ByHandError(f"{mark.after} was promoted, and {name} {words}: name a version: mtorl model promote")
    servers.serve(name, mark.before, mark)
    return f"{name} is to serve {mark.before} again, in place of {mark.after}"


def _served(servers: ModelServers, name: str) -> Served:
    found = servers.served(name)
    if found is None:
        raise ByHandError(f"there is no model server {name}, or it says no version")
    return found


def _check_free(servers: ModelServers, name: str, experiments: Sequence[Compared]) -> None:
    for experiment, goes_on, _, before, end, back in experiments:
        if goes_on and any(servers.name_at(arm.url) == name for arm in experiment.arms):
            raise ComparedError(
                f"{experiment.name} compares with what {name} serves: let it decide who is promoted, or end it: {end}"
            )
        if before is not None and servers.name_at(before) == name:
            words = f"{experiment.name} has promoted a model, which {name} is yet to serve"
            raise ComparedError(f"{words}: wait for it, or take it back: {back}")
