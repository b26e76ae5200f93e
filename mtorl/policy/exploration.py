"""Exploration on top of any policy: a share of decisions is taken by chance, and all probabilities stay exact.

    how = Exploration(share=0.05, scope="both")
    taken, explored = explore(choice, how, ("search", "video"), v)     # v: draw of this decision in [0, 1)

With probability `share` (epsilon), a decision is explored:

    channel    the channel is drawn uniformly, and exposed if the policy would expose that channel
    exposure   the policy's channel is exposed, whatever the policy says
    both       the channel is drawn uniformly, and exposed

Of C candidates, with pi(c) the policy's probability of a channel and show(c) that of exposing it once it is drawn:

    pi'(c)   = (1 - epsilon) pi(c) + epsilon / C                                                     channel, both
    show'(c) = [(1 - epsilon) pi(c) show(c) + (epsilon / C) x] / pi'(c)     x = show(c), or 1 for both
    pi'(c)   = pi(c),   show'(c) = (1 - epsilon) show(c) + epsilon                                   exposure

So pi' has a floor of epsilon / C. What the policy does not say is left out for all of its decisions alike, whether they
were explored or not, since knowing it of some would select.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from mtorl.log.records import ExplorationScope
from mtorl.runtime.validation import StrictModel

Probabilities = Mapping[str, float]  # channel -> probability

EXPLORE = 0.05
"""Share that new experiments explore. It costs about 1 % of the value; without it, the log could hardly have made what
the next model would do, and the gate can't value that model."""


class Exploration(StrictModel):
    """Share of an arm's decisions that are explored."""

    share: float = Field(gt=0, le=1)
    """Of the decisions."""
    scope: ExplorationScope = "both"
    """What is left to chance: the channel, whether to expose, or both."""


class Choice(NamedTuple):
    """A policy's choice, with its probabilities."""

    channel: str
    expose: bool
    channel_probs: Probabilities  # of each candidate; of the chosen channel alone or empty, if the others are not known
    exposure_probs: Probabilities  # of exposing each channel, once it is drawn; without those that are not known


def explore(choice: Choice, how: Exploration, candidates: Sequence[str], v: float) -> tuple[Choice, bool]:
    """Explore a decision for some v in [0, 1) of its own; the chosen channel is one of the candidates.

    Returns:
        The choice, with the probabilities of policy and exploration together; and whether it was explored.
    """
    explored = v < how.share
    mixture = _exposure(choice, how.share) if how.scope == "exposure" else _mixture(choice, how, candidates)
    if not explored:
        return Choice(choice.channel, choice.expose, *mixture), False
    if how.scope == "exposure":
        return Choice(choice.channel, True, *mixture), True
    # For v < share, v / share is uniform: its multiple's whole part draws the channel, its fraction the exposure.
    place = v / how.share * len(candidates)
    at = min(int(place), len(candidates) - 1)
    channel = candidates[at]
    if how.scope == "both":
        return Choice(channel, True, *mixture), True
    known = choice.exposure_probs.get(channel)
    expose = choice.expose if known is None else place - at < known
    return Choice(channel, expose, *mixture), True


def _exposure(choice: Choice, share: float) -> tuple[Probabilities, Probabilities]:
    shown = {channel: (1.0 - share) * p + share for channel, p in choice.exposure_probs.items()}
    return choice.channel_probs, shown


def _mixture(choice: Choice, how: Exploration, candidates: Sequence[str]) -> tuple[Probabilities, Probabilities]:
    if not choice.channel_probs.keys() >= set(candidates):
        return {}, {}
    by_policy = {c: (1.0 - how.share) * choice.channel_probs[c] for c in candidates}
    by_chance = how.share / len(candidates)
    probs = {c: by_policy[c] + by_chance for c in candidates}
    if not choice.exposure_probs.keys() >= set(candidates):
        return probs, {}
    shows = {c: choice.exposure_probs[c] for c in candidates}
    if how.scope == "both":
        shows = {c: min((by_policy[c] * p + by_chance) / probs[c], 1.0) for c, p in shows.items()}
    return probs, shows
