"""Combines several active experiments: selects the one that decides a request, and divides each campaign's money.

Two experiments must have different campaigns, or different users of the same layer, because only one may decide a
request. If experiments have the same campaign but different budgets for it, the smallest budget applies.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations

from mtorl.experiment import messages
from mtorl.experiment.arm import ALL_ARMS, OUTSIDE
from mtorl.experiment.budget import AccountLimit, Budget
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.runtime.message import Message

# A smaller share of users without an experiment is a rounding error.
_NOBODY = 1e-12


class Experiments:
    """The experiments that are active at the same time.

    Raises:
        ExperimentError: there is no experiment, or two experiments overlap.
    """

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        self._all = tuple(sorted(experiments, key=lambda one: (one.layer, one.layer_part, one.name)))
        if not self._all:
            raise ExperimentError(messages.NO_EXPERIMENT())
        for one, other in combinations(self._all, 2):
            if (words := conflict(one, other)) is not None:
                raise ExperimentError(words)

    def __iter__(self) -> Iterator[Experiment]:
        """Iterate over the experiments, in the same order on every router."""
        return iter(self._all)

    def holds(self, experiment: Experiment) -> bool:
        """Return whether this very object is an active experiment; an older version does not count."""
        return any(experiment is one for one in self._all)

    def deciding(self, user_id: str, campaign_id: str) -> Experiment:
        """Return the experiment that decides for a user in a campaign.

        An experiment that names the user in its `overrides` is preferred to one whose layer part contains the user. If
        there is neither, the first experiment of the campaign decides, with the user OUTSIDE.
        """
        of_campaign = [one for one in self._all if one.decides(campaign_id)] or self._all
        named = next((one for one in of_campaign if one.overrides_arm_of(user_id)), None)
        return named or next((one for one in of_campaign if one.holds(user_id)), of_campaign[0])

    def asks(self, arm: str) -> bool:
        """Return whether an arm has an endpoint from which the router requests decisions."""
        return arm in self._asking

    @cached_property
    def _asking(self) -> frozenset[str]:
        urls = {one.key(of.name): of.url for one in self._all for of in one.arms}
        urls[OUTSIDE] = next((one.arm(OUTSIDE).url for one in self._all), None)
        return frozenset(arm for arm, url in urls.items() if url is not None)

    def accounts(self) -> Sequence[AccountLimit]:
        """Return the ledger accounts of all experiments."""
        return self._accounts

    @cached_property
    def _accounts(self) -> list[AccountLimit]:
        found: dict[tuple[str, str, str], dict[str, AccountLimit]] = {}
        for experiment in self._all:
            for limit in experiment.accounts():
                if limit.arm == OUTSIDE:
                    # `_divided` adds an account for users who are in no experiment.
                    continue
                arm = limit.arm if limit.arm == ALL_ARMS else experiment.key(limit.arm)
                accounts = found.setdefault((limit.campaign, limit.channel, limit.period), {})
                if arm not in accounts or limit.limit < accounts[arm].limit:  # for ALL_ARMS, keep the lowest limit
                    accounts[arm] = limit._replace(arm=arm)
        return [limit for accounts in found.values() for limit in _divided(accounts)]

    @cached_property
    def differences(self) -> list[Message]:
        """Return a message for each pair of experiments with different budgets for a common campaign."""
        found = []
        for one, other in combinations(self._all, 2):
            common = _in_common(one, other)
            if one.budget_table is not None and one.budget_table == other.budget_table:
                continue
            compared = [None] if common is None else common
            if any(_budgets_of(one, campaign) != _budgets_of(other, campaign) for campaign in compared):
                found.append(messages.BUDGETS_DIFFER(one=one.name, other=other.name, campaigns=_words(common)))
        return found


def _divided(accounts: Mapping[str, AccountLimit]) -> list[AccountLimit]:
    """Divide the amount of one budget between the arms of all experiments, in proportion to their users."""
    amount = accounts[ALL_ARMS].limit
    arms = [limit for name, limit in accounts.items() if name != ALL_ARMS]
    rest = 1.0 - sum(limit.part for limit in arms)
    outside = [arms[0]._replace(arm=OUTSIDE, part=rest)] if rest > _NOBODY else []
    return [accounts[ALL_ARMS], *(limit._replace(limit=amount * limit.part) for limit in [*arms, *outside])]


def conflict(one: Experiment, other: Experiment) -> Message | None:
    """Return the reason why two experiments can't run at the same time, or None if they can."""
    if one.name == other.name:
        return messages.SAME_NAME(name=one.name)
    common = _in_common(one, other)
    if common is not None and not common:
        return None
    how = ""
    if one.layer != other.layer:
        how = f"in layers {one.layer} and {other.layer} instead of one"
    elif one.layer_part[0] < other.layer_part[1] and other.layer_part[0] < one.layer_part[1]:
        how = f"in parts of layer {one.layer} that overlap, {_text(one.layer_part)} and {_text(other.layer_part)}"
    return messages.OVERLAP(one=one.name, other=other.name, campaigns=_words(common), how=how) if how else None


def _in_common(one: Experiment, other: Experiment) -> Sequence[str] | None:
    """Return the campaigns that both experiments decide, or None for every campaign."""
    if one.campaigns is None or other.campaigns is None:
        return other.campaigns if one.campaigns is None else one.campaigns
    return [campaign for campaign in one.campaigns if other.decides(campaign)]


def _budgets_of(experiment: Experiment, campaign: str | None) -> set[Budget]:
    return set(experiment.all_budgets if campaign is None else experiment.budgets_of(campaign))


def _words(campaigns: Sequence[str] | None) -> str:
    return "all campaigns" if campaigns is None else f"campaign {campaigns[0]}"


def _text(part: tuple[float, float]) -> str:
    return f"[{part[0]:g}, {part[1]:g}]"
