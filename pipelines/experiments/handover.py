"""Hand-over after a promotion: the incumbent's server takes the model that won, and the previous one after a rollback.

    standing = hand_over(store, servers, others, time.time())

A promotion applies at once: the incumbent's arm answers where the challenger did. That leaves the challenger's server
no room for the next challenger, whose model would answer as the incumbent. So the incumbent's server is changed to the
version that won, and then its arm answers there again. An incumbent without a server (a baseline, or rows) may be given
the one that `for_incumbent` names.

A mark on the server holds the previous and the new version, so that a crash and a rollback find what to restore. No
change is made twice, and none that a person has overridden since.
"""

from collections.abc import Iterable
from typing import NamedTuple

from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import IllegalEvent, Promoted, newest_promotion
from mtorl.experiment.stage_machine import answering
from pipelines.experiments.controller import ExperimentStore, act, state
from serving.model_servers import Mark, ModelServers, Served


class Neighbour(NamedTuple):
    """Another experiment that routers read."""

    experiment: Experiment
    """As they read it."""
    over: bool
    """Whether it compares nothing, and never will again as it is: one that is switched off may go on."""
    before: str | None = None
    """Where its incumbent answered before a promotion that may still be rolled back; None: there is none."""


class Standing(NamedTuple):
    """State of the hand-over."""

    done: bool
    """Whether nothing is left to do."""
    reason: str
    """In one word."""
    words: str


def hand_over(
    store: ExperimentStore, servers: ModelServers, others: Iterable[Neighbour], now: float, *, late: bool = False
) -> Standing | None:
    """Take the next step, if there is one.

    Args:
        others: Experiments in force that may need the same server.
        late: Whether a promotion is handed over also under another salt, which names its challenger's server.

    Returns:
        None: nothing was promoted, or another experiment follows and its incumbent is not the promoted one.

    Raises:
        ExperimentError: The definition can't be used, and what it promoted is not in force.
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
        return _afterwards(promotion, name, target, followed)
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
    if (words := _in_the_way(promotion, servers, name, target, mark, others)) is not None:
        return Standing(False, "Waits", words)
    servers.serve(name, mark.after, mark)
    return Standing(False, "RollingOut", f"{name} is to serve {mark.after} in place of {mark.before}")


def _present(store: ExperimentStore) -> Experiment:
    """The definition; if it can't be used, the experiment in force."""
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
    if problem:
        return Standing(False, "RollingOut", f"{name} does not serve {mark.after} alone yet: {problem}")
    done = f"{name} serves {mark.after} in place of {mark.before}"
    try:
        # With the versions: a server that is made anew has lost its mark.
        served = mark.model_dump() if given is None else {**mark.model_dump(), "endpoint": given}
        act(store, "handed over", by="ramp", reason=done, at=now, served=served)
    except IllegalEvent as error:  # rolled back meanwhile
        return Standing(False, "RolledBack", str(error))
    return Standing(True, "HandedOver", f"{done}; the challenger's server is free")


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
        return Standing(False, "RollingBack", f"{name} is to serve {mark.before} again, in place of {mark.after}")
    if target.version != mark.before:
        words = f"{name} is meant to serve {target.version}, which people have rolled out since, and not {mark.before}"
        return Standing(True, "Changed", words)
    if target.problem:
        return Standing(False, "RollingBack", f"{name} does not serve {mark.before} alone yet: {target.problem}")
    return Standing(True, "RolledBack", f"{name} serves {mark.before} again")


def _nothing_given_back(promotion: Promoted, name: str | None, target: Served | None, followed: bool) -> Standing:
    if name is None or not promotion.handed_over:
        return Standing(True, "RolledBack", "the incumbent's arm answers as before: nothing else had changed")
    if followed and target is not None:
        words = f"{name} serves {target.version}: what came after it is in force, and stays"
        return Standing(True, "RolledBack", words)
    served = "no version" if target is None else target.version
    words = f"{name} serves {served}, and its version before the promotion is unknown: roll that version out"
    return Standing(False, "Changed", words)


def _afterwards(promotion: Promoted, name: str | None, target: Served | None, followed: bool) -> Standing:
    mark = None if target is None else _ours(promotion, target)
    if target is not None and mark is not None and target.version == mark.after:
        return Standing(True, "HandedOver", f"{name} serves {mark.after} in place of {mark.before}")
    promoted = "what was promoted" if mark is None else f"{mark.after}, which was promoted"
    served = "no version" if target is None else target.version
    words = f"{name} is meant to serve {served} and not {promoted}: change it back, or roll back"
    if followed:
        words += f", under the previous salt, {promotion.event.salt!r}: under this one, that ends what goes on now"
    return Standing(False, "Changed", words)


def _at_its_endpoint(promotion: Promoted) -> Standing:
    where = (promotion.event.incumbent or {}).get("endpoint") or "where the challenger did"
    return Standing(True, "AtItsEndpoint", f"the incumbent's arm answers at {where}, and goes on there")


def _in_the_way(
    promotion: Promoted, servers: ModelServers, name: str, target: Served, mark: Mark, others: Iterable[Neighbour]
) -> str | None:
    """Reason why another experiment needs the server's present version; None: none does."""
    then = "it is handed over when that is over"
    for other, over, before in others:
        if other.name == promotion.event.experiment:
            continue
        if not over and any(servers.name_at(arm.url) == name for arm in other.arms):
            return f"{other.name} compares with what {name} serves: {then}"
        found = target.mark
        holds = found is not None and found.experiment == other.name and found.after == target.version
        if holds or (before is not None and servers.name_at(before) == name):
            return (
                f"{other.name} has promoted a model for other users, who need what {name} serves now, or will after a "
                "rollback: until another experiment is about them, each of the two answers where its challenger did"
            )
        incumbent = other.arm(INCUMBENT)
        if servers.name_at(incumbent.url) != name or target.version == mark.after:
            continue
        pinned = incumbent.model_digest
        if pinned and not str((promotion.event.incumbent or {}).get("model_digest") or "").startswith(pinned):
            return f"{other.name} is over, and its incumbent at {name} must be model {pinned}: leave that digest out"
    return None


def _ours(promotion: Promoted, target: Served) -> Mark | None:
    """The mark of a promotion on a server; None: there is none, or another promotion has changed it since."""
    if target.mark is not None:
        same = (target.mark.experiment, target.mark.promotion) == (promotion.event.experiment, _id(promotion))
        return target.mark if same else None
    noted = {key: value for key, value in (promotion.noted or {}).items() if key in Mark.model_fields}
    return Mark.model_validate(noted) if noted else None


def _id(promotion: Promoted) -> str:
    return f"{promotion.event.number} at {promotion.event.at:.3f}"
