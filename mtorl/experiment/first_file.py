"""A first experiment file for a data set: valid as it is, with comments on what a person decides.

spec = DatasetSpec.load("my-log.yaml")
text = first_file(spec, name="first-day", salt="2026-11-5f2c", owner="ads-platform", described="my-log.yaml")
"""

from typing import Any

import yaml

from mtorl.experiment import messages
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.log.dataset import DatasetSpec
from mtorl.policy.exploration import EXPLORE

_OUTCOME_HOURS = 24.0

_FILE = """\
# {name}: who gets which policy, with whose money, and what would count as a success.
# Every field: docs/experiment-file.md
# Check it:    mtorl experiment check FILE --dataset {described}
name: {name}
owner: {owner}                      # whom to ask
enabled: true                      # false is the kill switch: everybody gets the incumbent

# What is expected to change, and why? Write it down before anything is seen: it is on the experiment's page.
hypothesis: The challenger earns more for the same money.

# A hash of salt and user sends each user to an arm. Keep it from callers; a new one is another try, with other users.
salt: {salt}
unit: user_id
layer: channel-policy              # experiments of other layers are independent of this one

# Whose decisions are compared. Weights are shares of the users at the last stage.
# {explored}
arms:
- name: incumbent
  weight: 0.5
  policy: baseline      # what each request says that your own logic would do
  explore: {explore}
- name: challenger
  weight: 0.5
  endpoint: {endpoint}      # a model server: mtorl arm check says whether it can be an arm
  explore: {explore}
default_channel: {channel}      # answered when nothing better is known; channels are {channels}

# Money, {currency}: split by arm in proportion to their users, so that no arm spends another's. It is never exceeded.
# It is that of all users: with a layer_part of [0, 0.3], the arms have 0.3 of it, and the rest is for users outside.
budgets:
- {{campaign: "*", channel: "*", amount: {amount}}}     # of all campaigns and channels, for all time
# - {{campaign: "*", channel: "*", amount: 100, period: day}}     # and so much a day: then it is spread over the day

# What decides. How many users that takes: mtorl experiment plan, once a log is there.
metrics:
  primary: gain_per_decision       # the gain of the data set: {gain}. More of it is better
  secondary: [exposure_ratio]      # reported beside it
  guardrails:                      # what must not get worse by more than the margin: it is rolled back then
  - {{name: cost_per_decision, direction: down, margin: 0.05}}     # {currency} per decision: choose what you accept
  outcome_hours: {outcome_hours}              # a decision counts with what came of it in this time
alpha: 0.05                        # of any false verdict, however often people look
min_runtime_hours: 168             # no verdict before a whole week was seen

# When the ramp may stop it without a win: a time with its zone.
# planned_end: 2027-01-31T00:00:00Z

# The stages that `mtorl experiment run` takes it through. Each lasts that long at least, and until each arm has so many
# users who count. In the shadow, challengers are asked, and nobody gets what they say.
ramp:
  stages:
  - {{stage: shadow, hours: 24, users: 1000}}
  - {{stage: 1%, hours: 24, users: 100}}
  - {{stage: 5%, hours: 48, users: 500}}
  - {{stage: 50%, hours: 168, users: 2000}}
  fallback_ratio: 0.01             # a challenger may fall back that much more often than the incumbent
  latency_seconds: 0.02            # and answer that much later
  promote: false                   # true: a challenger that wins is promoted without a person
"""

_EXPLORED = """\
explore: a share of the decisions is left to chance, so that the next model can be learnt and valued. 5 % cost about
# 1 % of what the arms earn (mtorl experiment plan --model says it for yours); null switches it off."""
_NOT_EXPLORED = "explore: {share: 0.05, scope: both} leaves a share to chance; without it the next model learns little."


def first_file(
    spec: DatasetSpec,
    *,
    name: str,
    salt: str,
    owner: str,
    described: str,
    endpoint: str = "http://127.0.0.1:8085",
    amount: float = 1000.0,
    explore: float = EXPLORE,
) -> str:
    """The text of an experiment file that is valid for a data set.

    Args:
        described: The data set as commands name it: its description's file, or a built-in one's name.
        amount: Money of the whole experiment, currency units.
        explore: Share of the decisions that both arms leave to chance; 0: none.

    Raises:
        ExperimentError: one of these can't be used.
    """
    text = _FILE.format(
        name=_yaml(name),
        described=_comment(described),
        salt=_yaml(salt),
        owner=_yaml(owner),
        endpoint=_yaml(endpoint),
        channel=_yaml(spec.channels[0]),
        channels=_comment(", ".join(spec.channels)),
        currency=_comment(spec.currency),
        amount=f"{amount:g}",
        gain=_comment(spec.reward.gain.text),
        explore=f"{{share: {explore:g}, scope: both}}" if explore else "null",
        explored=_EXPLORED if explore else _NOT_EXPLORED,
        outcome_hours=f"{spec.outcome_hours or _OUTCOME_HOURS:g}",
    )
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ExperimentError(messages.NAME_IN_YAML(name=name)) from None
    Experiment.from_dict(content).check(spec)
    return text


def _yaml(value: str) -> Any:
    """A text as YAML, in quotes where it needs them."""
    return yaml.safe_dump(value, width=10_000, allow_unicode=True).removesuffix("\n").removesuffix("\n...")


def _comment(value: str) -> str:
    """A text within a comment: on one line."""
    return " ".join(value.split())
