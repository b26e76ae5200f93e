"""Combines several active experiments: selects the one that decides a request, and divides each campaign's money.

    together = Experiments([spring, autumn])              # ExperimentError if they overlap
    together.deciding("user-42", "shoes")                 # the experiment that decides for this user and campaign
    together.accounts()                                   # the spending limits of all experiments, for the ledger

Each decision follows one policy. So two experiments must have different campaigns, or disjoint parts of one layer.
Assignments in different layers are independent (docs/tables/independence.md).

All experiments of a campaign share its money. Each arm of each experiment gets a part in proportion to its users, and
the whole amount limits all arms together. These experiments should define the same budgets for the campaign. If the
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

# Share of users without an experiment. A smaller share is a rounding error, and counts as 0.
_NOBODY = 1e-12


class Experiments:
    """The experiments that are active at the same time.

    Raises:
        ExperimentError: there is no experiment, or two of them overlap.
    """

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        self._all = tuple(sorted(experiments, key=lambda one: (one.layer, one.layer_part, one.name)))
        if not self._all:
            raise ExperimentError(messages.NO_EXPERIMENT())
        for one, other in combinations(self._all, 2):
            if (words := conflict(one, other)) is not None:
                raise ExperimentError(words)

    def __iter__(self) -> Iterator[Experiment]:
        """Iterate over the experiments, in an order that is the same on every router."""
        return iter(self._all)

    def holds(self, experiment: Experiment) -> bool:
        """Return whether `experiment` is one of the active experiments.

        The objects are compared by identity, so a newer version of an active experiment does not count.
        """
        return any(experiment is one for one in self._all)

    def deciding(self, user_id: str, campaign_id: str) -> Experiment:
        """Return the experiment that decides for a user in a campaign.

        Of the experiments that decide the campaign, it is the first that fits:

        1. an experiment whose `overrides` contain the user
        2. an experiment whose part of the layer contains the user
        3. the first experiment, in which the user is OUTSIDE

        If no experiment decides the campaign, the same order applies to all experiments. The user is then OUTSIDE,
        and no budget pays for the campaign.
        """
        of_campaign = [one for one in self._all if one.decides(campaign_id)] or self._all
        named = next((one for one in of_campaign if one.overrides_arm_of(user_id)), None)
        return named or next((one for one in of_campaign if one.holds(user_id)), of_campaign[0])

    def asks(self, arm: str) -> bool:
        """Return whether the router gets an arm's decisions from a server, because the arm has an endpoint.

        Args:
            arm: Name of the arm, as returned by `Experiment.key`, or OUTSIDE.
        """
        return arm in self._asking

    @cached_property
    def _asking(self) -> frozenset[str]:
        urls = {one.key(of.name): of.url for one in self._all for of in one.arms}
        urls[OUTSIDE] = next((one.arm(OUTSIDE).url for one in self._all), None)
        return frozenset(arm for arm, url in urls.items() if url is not None)

    def accounts(self) -> Sequence[AccountLimit]:
        """Return the accounts of all experiments, for the ledger.

        For each budget, there is one account for the whole amount, one for each arm, and one for users who are in no
        experiment.
        """
        return self._accounts

    @cached_property
    def _accounts(self) -> list[AccountLimit]:
        found: dict[tuple[str, str, str], dict[str, AccountLimit]] = {}
        for experiment in self._all:
            for limit in experiment.accounts():
                if limit.arm == OUTSIDE:
                    # Users outside this experiment may be in another one. `_divided` adds an account for the users who
                    # are in no experiment.
                    continue
                arm = limit.arm if limit.arm == ALL_ARMS else experiment.key(limit.arm)
                accounts = found.setdefault((limit.campaign, limit.channel, limit.period), {})
                if arm not in accounts or limit.limit < accounts[arm].limit:  # for ALL_ARMS, keep the lowest limit
                    accounts[arm] = limit._replace(arm=arm)
        return [limit for accounts in found.values() for limit in _divided(accounts)]

    @cached_property
    def differences(self) -> list[Message]:
        """Return a message for each pair of experiments that define different budgets for a common campaign."""
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
    """Divide the amount of one budget between the arms of all experiments, in proportion to their users.

    If some users are in no experiment, an account for these users gets a part, too.
    """
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
    """Return the campaigns that both experiments decide, or None if both decide every campaign."""
    if one.campaigns is None or other.campaigns is None:
        return other.campaigns if one.campaigns is None else one.campaigns
    return [campaign for campaign in one.campaigns if other.decides(campaign)]


def _budgets_of(experiment: Experiment, campaign: str | None) -> set[Budget]:
    return set(experiment.all_budgets if campaign is None else experiment.budgets_of(campaign))


def _words(campaigns: Sequence[str] | None) -> str:
    return "all campaigns" if campaigns is None else f"campaign {campaigns[0]}"


def _text(part: tuple[float, float]) -> str:
    return f"[{part[0]:g}, {part[1]:g}]"
