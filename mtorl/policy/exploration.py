"""Explores on top of any policy: randomises a share of the decisions, and gives exact probabilities for all decisions.

    how = Exploration(share=0.05, scope="both")
    taken, explored = explore(choice, how, ("search", "video"), v)     # v: this decision's draw from [0, 1)

A decision is explored with probability `share` (epsilon). The scope defines what is randomised:

    channel    the channel is drawn uniformly, and exposed if the policy would expose it
    exposure   the policy's channel is exposed, even if the policy would not expose it
    both       the channel is drawn uniformly, and exposed

Let C be the number of candidates, pi(c) the policy's probability of a channel and show(c) that of exposing it if drawn:

    pi'(c)   = (1 - epsilon) pi(c) + epsilon / C                                                     channel, both
    show'(c) = [(1 - epsilon) pi(c) show(c) + (epsilon / C) x] / pi'(c)     x = show(c), or 1 for both
    pi'(c)   = pi(c),   show'(c) = (1 - epsilon) show(c) + epsilon                                   exposure

With `channel` or `both`, pi' is at least epsilon / C. If the policy does not report a probability, no decision has one,
explored or not. If only explored decisions had a probability, estimates would use a biased selection of decisions.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from mtorl.log.records import ExplorationScope
from mtorl.runtime.validation import StrictModel

Probabilities = Mapping[str, float]  # channel -> probability

EXPLORE = 0.05
"""Share of decisions that new experiments explore, which costs about 1 % of the value. Without exploration, the log
would lack most of the next model's decisions, and the gate could not value that model."""


class Exploration(StrictModel):
    """Exploration settings of an arm."""

    share: float = Field(gt=0, le=1)
    """Share of the decisions that are explored."""
    scope: ExplorationScope = "both"
    """What is randomised: the channel, the exposure, or both."""


class Choice(NamedTuple):
    """A policy's choice, with its probabilities."""

    channel: str
    expose: bool
    channel_probs: Probabilities  # of all candidates, or of only the chosen channel, or empty, as far as known
    exposure_probs: Probabilities  # probability of exposing each channel if it is drawn, where known


def explore(choice: Choice, how: Exploration, candidates: Sequence[str], v: float) -> tuple[Choice, bool]:
    """Explore a decision, with v a separate draw from [0, 1); the chosen channel is one of the candidates.

    Returns:
        The choice with the joint probabilities of policy and exploration, and whether the decision was explored.
    """
    explored = v < how.share
    mixture = _exposure(choice, how.share) if how.scope == "exposure" else _mixture(choice, how, candidates)
    if not explored:
        return Choice(choice.channel, choice.expose, *mixture), False
    if how.scope == "exposure":
        return Choice(choice.channel, True, *mixture), True
    # Given v < share, v / share is uniform. The integer part of C v / share draws the channel, the rest the exposure.
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
