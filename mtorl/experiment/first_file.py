"""Writes a first experiment file for a data set, which is valid as written."""

from typing import Any

import yaml

from mtorl.experiment import messages
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.log.dataset import DatasetSpec
from mtorl.policy.exploration import EXPLORE

_OUTCOME_HOURS = 24.0

_FILE = """\
# {name}: the policies, their users and budgets, and the metrics that define success.
# All fields: docs/experiment-file.md
# Check it:   mtorl experiment check FILE --dataset {described}
name: {name}
owner: {owner}                      # the person or team to contact
enabled: true                      # false is the kill switch: all users get the incumbent

# What do you expect to change, and why? Write it before you see results. The experiment's page shows it.
hypothesis: The challenger earns more for the same money.

# A hash of salt and user id assigns each user to an arm. Keep the salt secret. A new salt starts a new experiment.
salt: {salt}
unit: user_id
layer: channel-policy              # experiments in different layers are independent

# The policies to compare. A weight is an arm's share of the users at the last stage.
# {explored}
arms:
- name: incumbent
  weight: 0.5
  policy: baseline      # the choice of your own logic, which each request contains
  explore: {explore}
- name: challenger
  weight: 0.5
  endpoint: {endpoint}      # a model server; check it with: mtorl arm check
  explore: {explore}
default_channel: {channel}      # for a fallback without a baseline; channels are {channels}

# Budgets in {currency}, never exceeded. Each arm has its own part, in proportion to its users. The amount is for all
# users of the layer: with a layer_part of [0, 0.3], the arms get 0.3 of it, and users outside get the rest.
budgets:
- {{campaign: "*", channel: "*", amount: {amount}}}     # for all campaigns and channels, in total
# - {{campaign: "*", channel: "*", amount: 100, period: day}}     # a daily limit, spread over the day
# - {{campaign: "*", channel: "*", amount: 300,     # instead of the total above: 300 for one week, spread over it
#    pacing: {{start: "2026-12-07T00:00:00Z", end: "2026-12-14T00:00:00Z"}}}}

# The metrics. To find out how many users you need, run mtorl experiment plan as soon as you have a log.
metrics:
  primary: gain_per_decision       # decides the verdict. The gain of the data set, more is better: {gain}
  secondary: [exposure_ratio]      # reported only
  guardrails:                      # a challenger that is worse by more than the margin is rolled back
  - {{name: cost_per_decision, direction: down, margin: 0.05}}     # {currency} per decision: choose what you accept
  outcome_hours: {outcome_hours}              # hours after a decision in which its outcomes count
alpha: 0.05                        # probability of any false verdict, however often you look at the results
min_runtime_hours: 168             # no verdict before a full week

# Time (with a time zone) at which the ramp stops an experiment that has not won.
# planned_end: 2027-01-31T00:00:00Z

# The stages that `mtorl experiment run` moves through. A stage lasts for its hours, and until each arm has its
# number of users. In the shadow stage, challengers are queried, but their answers are not used.
ramp:
  stages:
  - {{stage: shadow, hours: 24, users: 1000}}
  - {{stage: 1%, hours: 24, users: 100}}
  - {{stage: 5%, hours: 48, users: 500}}
  - {{stage: 50%, hours: 168, users: 2000}}
  fallback_ratio: 0.01             # how much more often than the incumbent a challenger may fall back
  latency_seconds: 0.02            # how much slower than the incumbent a challenger may be (99th percentile)
  promote: false                   # true: promote a winning challenger automatically
"""

_EXPLORED = """\
explore: the share of decisions that is randomised, so that the next model can be trained and evaluated. 5 % cost about
# 1 % of the arms' gain (mtorl experiment plan --model computes it for your data); null disables exploration."""
_NOT_EXPLORED = "explore: {share: 0.05, scope: both} randomises a share; without it the next model learns little."


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
    """Return the text of a valid experiment file for a data set.

    Args:
        described: Path or built-in name of the data set's description.
        amount: Budget of the whole experiment, in currency units.
        explore: Share of the decisions that both arms randomise; 0 disables exploration.

    Raises:
        ExperimentError: a name can't be written as YAML, or the file would be invalid.
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
    return yaml.safe_dump(value, width=10_000, allow_unicode=True).removesuffix("\n").removesuffix("\n...")


def _comment(value: str) -> str:
    return " ".join(value.split())
