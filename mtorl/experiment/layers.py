"""Runs several experiments at once: selects the one that decides a request, and splits a campaign's money.

    together = Experiments([spring, autumn])              # ExperimentError if they overlap
    together.deciding("user-42", "shoes")                 # the experiment that decides for this user and campaign
    together.accounts()                                   # the spending limits of all experiments, for the ledger

A decision follows one policy. So two experiments must have different campaigns, or disjoint parts of one layer.
Assignments in different layers are independent (docs/tables/independence.md).

A campaign has one amount of money. Each arm of each experiment gets a part in proportion to its users, and the whole
amount limits all arms together. Experiments with a common campaign should define the same budgets for it. If their
budgets differ, the smallest amount applies.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations

from mtorl.experiment import messages
from mtorl.experiment.arm import ALL_ARMS, OUTSIDE
from mtorl.experiment.budget import AccountLimit, Budget
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.runtime.message import Message

_NOBODY = 1e-12  # shares of users below this are rounding errors


class Experiments:
    """Experiments that are active together. ExperimentError: there is none, or two of them overlap."""

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        self._all = tuple(sorted(experiments, key=lambda one: (one.layer, one.layer_part, one.name)))
        if not self._all:
            raise ExperimentError(messages.NO_EXPERIMENT())
        for one, other in combinations(self._all, 2):
            if (words := conflict(one, other)) is not None:
                raise ExperimentError(words)

    def __iter__(self) -> Iterator[Experiment]:
        """Iterate over all experiments, in the same order on every router."""
        return iter(self._all)

    def holds(self, experiment: Experiment) -> bool:
        """Return whether this object is one of the experiments; another version of an experiment is not."""
        return any(experiment is one for one in self._all)

    def deciding(self, user_id: str, campaign_id: str) -> Experiment:
        """Return the experiment that decides for a user in a campaign.

        An experiment that overrides the user's arm comes first, then the experiment whose part of the layer includes
        the user. If no experiment of the campaign includes the user, the user is OUTSIDE of the first one. If the
        campaign has no experiment, the user is OUTSIDE of the first of all experiments, without any budget.
        """
        of_campaign = [one for one in self._all if one.decides(campaign_id)] or self._all
        named = next((one for one in of_campaign if one.overrides_arm_of(user_id)), None)
        return named or next((one for one in of_campaign if one.holds(user_id)), of_campaign[0])

    def asks(self, arm: str) -> bool:
        """Return whether an arm, given by its name from `Experiment.key`, has an endpoint."""
        return arm in self._asking

    @cached_property
    def _asking(self) -> frozenset[str]:
        urls = {one.key(of.name): of.url for one in self._all for of in one.arms}
        urls[OUTSIDE] = next((one.arm(OUTSIDE).url for one in self._all), None)
        return frozenset(arm for arm, url in urls.items() if url is not None)

    def accounts(self) -> Sequence[AccountLimit]:
        """Return all accounts: whole budgets, each arm's parts, and the parts of users who are in no experiment."""
        return self._accounts

    @cached_property
    def _accounts(self) -> list[AccountLimit]:
        found: dict[tuple[str, str, str], dict[str, AccountLimit]] = {}
        for experiment in self._all:
            for limit in experiment.accounts():
                if limit.arm == OUTSIDE:
                    continue  # users outside one experiment may be in another; `_divided` computes who is in none
                arm = limit.arm if limit.arm == ALL_ARMS else experiment.key(limit.arm)
                accounts = found.setdefault((limit.campaign, limit.channel, limit.period), {})
                if arm not in accounts or limit.limit < accounts[arm].limit:  # for ALL_ARMS, keep the lowest limit
                    accounts[arm] = limit._replace(arm=arm)
        return [limit for accounts in found.values() for limit in _divided(accounts)]

    @cached_property
    def differences(self) -> list[Message]:
        """Messages for pairs of experiments that define different amounts for a common budget."""
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
    """Return the accounts of one budget, including the account of users who are in no experiment."""
    amount = accounts[ALL_ARMS].limit
    arms = [limit for name, limit in accounts.items() if name != ALL_ARMS]
    rest = 1.0 - sum(limit.part for limit in arms)
    outside = [arms[0]._replace(arm=OUTSIDE, part=rest)] if rest > _NOBODY else []
    return [accounts[ALL_ARMS], *(limit._replace(limit=amount * limit.part) for limit in [*arms, *outside])]


def conflict(one: Experiment, other: Experiment) -> Message | None:
    """Return the reason why two experiments can't run together; None if they can."""
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
    """Return the campaigns that both experiments decide; None means all campaigns."""
    if one.campaigns is None or other.campaigns is None:
        return other.campaigns if one.campaigns is None else one.campaigns
    return [campaign for campaign in one.campaigns if other.decides(campaign)]


def _budgets_of(experiment: Experiment, campaign: str | None) -> set[Budget]:
    return set(experiment.all_budgets if campaign is None else experiment.budgets_of(campaign))


def _words(campaigns: Sequence[str] | None) -> str:
    return "all campaigns" if campaigns is None else f"campaign {campaigns[0]}"


def _text(part: tuple[float, float]) -> str:
    return f"[{part[0]:g}, {part[1]:g}]"
