"""Moves a promoted model to the incumbent's model server, and restores the previous model after a rollback.

The challenger's server is then free for the next challenger. Each change is made only once, so it never overwrites a
later change by a person.
"""

from collections.abc import Iterable
from typing import NamedTuple

from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import IllegalEvent, Promoted, newest_promotion
from mtorl.experiment.stage_machine import answering
from mtorl.runtime.message import Message, prefixed
from pipelines import messages
from pipelines.experiments.controller import ExperimentStore, act, state
from serving.model_servers import Mark, ModelServers, Served


class Neighbour(NamedTuple):
    """Another active experiment, which may use the same model server."""

    experiment: Experiment
    """The experiment file that the routers read."""
    over: bool
    """Whether the experiment has ended. A switched-off experiment has not ended, because it may continue."""
    before: str | None = None
    """The incumbent's endpoint before a promotion that may still be rolled back; None if there is none."""


class Standing(NamedTuple):
    """The progress of a hand-over."""

    done: bool
    """Whether the hand-over is complete."""
    words: Message


def hand_over(
    store: ExperimentStore, servers: ModelServers, others: Iterable[Neighbour], now: float, *, late: bool = False
) -> Standing | None:
    """Make the next step to move a promoted model to the incumbent's server, and return the progress.

    Args:
        others: Active experiments that may need the incumbent's server.
        late: Move the model even if the experiment has a new salt, provided that the model is still its incumbent.

    Returns:
        The progress. None if nothing was promoted, or if a new experiment has another incumbent.

    Raises:
        ExperimentError: The definition is invalid, and there is no active experiment.
        OSError: A server can't be read or changed now.
    """
    promotion = newest_promotion(store.events())
    if promotion is None:
        return None
    before = (promotion.event.replaced or {}).get("endpoint")
    given = None if before else servers.for_incumbent((promotion.event.incumbent or {}).get("endpoint"))
    name = servers.name_at(before or given)
    if promotion.rolled_back:
        return _give_back(store, promotion, servers, name)
    experiment = _present(store)
    followed = not _is_of(promotion, experiment)
    if followed and not (promotion.handed_over or late):
        return None
    if followed and (name is None or answering(experiment.arm(INCUMBENT)) != promotion.incumbent):
        return None
    target = None if name is None else servers.served(name)
    if promotion.handed_over:
        return _afterwards(promotion, name, target)
    mark = None if target is None else _ours(promotion, target)
    winner = servers.name_at((promotion.event.incumbent or {}).get("endpoint"))
    if name is None or target is None or winner in (None, name):
        return _at_its_endpoint(promotion)
    if mark is None:
        source = servers.served(winner)
        if source is None:
            return _at_its_endpoint(promotion)
        made = {"experiment": promotion.event.experiment, "promotion": _id(promotion)}
        mark = Mark(**made, before=target.version, after=source.version)
    if (target.mark, target.version) == (mark, mark.after):
        return _note(store, name, mark, target.problem, now, given)
    # A manifest from git would undo the change again.
    if target.mark == mark and servers.applied:
        return Standing(False, messages.NOT_IN_GIT(name=name, served=target.version, after=mark.after))
    if (words := _in_the_way(promotion, servers, name, target, mark, others)) is not None:
        return Standing(False, words)
    servers.serve(name, mark.after, mark)
    return Standing(False, messages.ROLLING_OUT(name=name, after=mark.after, before=mark.before, problem=""))


def _present(store: ExperimentStore) -> Experiment:
    try:
        return state(store)[0]
    except ExperimentError:
        in_use = store.last_in_force()
        if in_use is None:
            raise
        return in_use


def _is_of(promotion: Promoted, experiment: Experiment) -> bool:
    return (experiment.name, experiment.salt) == (promotion.event.experiment, promotion.event.salt)


def _note(store: ExperimentStore, name: str, mark: Mark, problem: str, now: float, given: str | None) -> Standing:
    versions = {"name": name, "after": mark.after, "before": mark.before}
    if problem:
        return Standing(False, messages.ROLLING_OUT(**versions, problem=f"; not ready yet: {problem}"))
    done = messages.HANDED_OVER(**versions)
    try:
        # Record the versions in the history, because a server that is created anew has no mark.
        served = mark.model_dump() if given is None else {**mark.model_dump(), "endpoint": given}
        act(store, "handed over", by="ramp", reason=done, at=now, served=served)
    except IllegalEvent as error:
        return Standing(False, prefixed("", error))
    return Standing(True, done)


def _give_back(store: ExperimentStore, promotion: Promoted, servers: ModelServers, name: str | None) -> Standing:
    target = None if name is None else servers.served(name)
    mark = None if target is None else _ours(promotion, target)
    in_use = store.last_in_force()
    followed = in_use is None or not _is_of(promotion, in_use)
    made_anew = target is not None and target.mark is None
    if name is None or target is None or mark is None or (made_anew and followed):
        return _nothing_given_back(promotion, name, target, followed)
    if target.version == mark.after != mark.before:
        servers.serve(name, mark.before, mark)
        return Standing(False, messages.ROLLING_BACK(name=name, before=mark.before, after=mark.after, problem=""))
    if target.version != mark.before:
        return Standing(True, messages.GONE_ON(name=name, served=target.version))
    if target.problem:
        problem = f"; not ready yet: {target.problem}"
        return Standing(False, messages.ROLLING_BACK(name=name, before=mark.before, after=mark.after, problem=problem))
    return Standing(True, messages.ROLLED_BACK(name=name, before=mark.before))


def _nothing_given_back(promotion: Promoted, name: str | None, target: Served | None, followed: bool) -> Standing:
    if name is None or not promotion.handed_over:
        return Standing(True, messages.NOTHING_TO_UNDO())
    if followed and target is not None:
        return Standing(True, messages.GONE_ON(name=name, served=target.version))
    served = "no version" if target is None else target.version
    return Standing(False, messages.VERSION_UNKNOWN(name=name, served=served))


def _afterwards(promotion: Promoted, name: str | None, target: Served | None) -> Standing:
    mark = None if target is None else _ours(promotion, target)
    if target is not None and mark is not None and target.version == mark.after:
        return Standing(True, messages.HANDED_OVER(name=name, after=mark.after, before=mark.before))
    wanted = "the promoted version" if mark is None else mark.after
    served = "no version" if target is None else target.version
    return Standing(False, messages.CHANGED(name=name, served=served, wanted=wanted, salt=promotion.event.salt))


def _at_its_endpoint(promotion: Promoted) -> Standing:
    where = (promotion.event.incumbent or {}).get("endpoint") or "the challenger's endpoint"
    return Standing(True, messages.AT_ITS_ENDPOINT(where=where))


def _in_the_way(
    promotion: Promoted, servers: ModelServers, name: str, target: Served, mark: Mark, others: Iterable[Neighbour]
) -> Message | None:
    """Return why another experiment needs the server's present version, or None."""
    for other, over, before in others:
        if other.name == promotion.event.experiment:
            continue
        if not over and any(servers.name_at(arm.url) == name for arm in other.arms):
            return messages.WAITS_FOR_END(other=other.name, name=name)
        found = target.mark
        holds = found is not None and found.experiment == other.name and found.after == target.version
        if holds or (before is not None and servers.name_at(before) == name):
            return messages.WAITS_FOR_OTHER(other=other.name, name=name)
        incumbent = other.arm(INCUMBENT)
        if servers.name_at(incumbent.url) != name or target.version == mark.after:
            continue
        pinned = incumbent.model_digest
        if pinned and not str((promotion.event.incumbent or {}).get("model_digest") or "").startswith(pinned):
            return messages.WAITS_FOR_DIGEST(other=other.name, name=name, digest=pinned)
    return None


def _ours(promotion: Promoted, target: Served) -> Mark | None:
    """Return the mark of this promotion on a server, or None."""
    if target.mark is not None:
        same = (target.mark.experiment, target.mark.promotion) == (promotion.event.experiment, _id(promotion))
        return target.mark if same else None
    noted = {key: value for key, value in (promotion.noted or {}).items() if key in Mark.model_fields}
    return Mark.model_validate(noted) if noted else None


def _id(promotion: Promoted) -> str:
    return f"{promotion.event.number} at {promotion.event.at:.3f}"
