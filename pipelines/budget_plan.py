"""Plans the budget of an experiment from its past decisions: `mtorl budget plan`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import yaml

from mtorl.experiment.experiment import Experiment
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing

if TYPE_CHECKING:
    from mtorl.evaluation.budget_plan import BudgetPlan

# Limit the decisions per user, because the network scores each decision at every price.
MOST_TURNS = 200
# Read more decisions than are replayed, because most users may be in the model's training set.
_READ = 5
_BLOCK = re.compile(r"^(?:budgets|budget_table):.*\n(?:(?:[ \t-]|# ?-).*\n)*", re.MULTILINE)
"""Matches the budgets in the text of an experiment file, including budgets that are commented out."""


class Planned(NamedTuple):
    """A budget plan, and the data from which it was computed.

    Attributes:
        days: Length of the planned period, in days.
        by_hour: Number of logged decisions for each hour (UTC).
        gain: Unit of the plan's gain.
    """

    plan: BudgetPlan
    days: float
    by_hour: pd.Series
    rows: int
    users: int
    currency: str
    gain: str


def plan_budget(lake: str, file: str, model: str | Path, arm: str, budget: float, days: float) -> Planned:
    """Plan a budget from the logged decisions of one arm, without users of the model's training set.

    Args:
        lake: Folder or URI of the decision log.
        file: Path of the experiment file.
        model: Artifact folder of the model that predicts the outcomes.
        budget: Budget of the period, in currency units.
        days: Length of the planned period, in days.

    Raises:
        InputError: All users with exposures are training users of the model.
    """
    from features.collect.experiment_decisions import MOST_SERVED, decisions_by_hour, served_decisions
    from mtorl.artifact.artifact import load
    from mtorl.evaluation.budget_plan import Traffic, budget_plan
    from mtorl.evaluation.replay import Replay
    from mtorl.log.splits import are_among

    loaded, experiment = load(Path(model)), Experiment.load(file)
    explore = next((one.explore for one in experiment.arms if one.name == arm), None)
    rows = served_decisions(lake, loaded.spec, experiment, arm, MOST_SERVED * _READ)
    rows = rows[~are_among(rows["user_id"], loaded.training_users())]
    rows = whole_users(rows[rows.groupby("user_id").cumcount() < MOST_TURNS], MOST_SERVED)
    if not rows["exposed"].any():
        raise InputError(f"{model}: all users with exposures in {lake} are in the model's training set")
    rows = rows.sort_values(["user_id", "timestamp"], ignore_index=True)
    by_hour = decisions_by_hour(lake, loaded.spec, experiment)
    plan = budget_plan(Replay.of(rows, loaded, explore), rows, budget, Traffic.of(_by_day(by_hour), days))
    gain = loaded.spec.reward.gain
    named = gain.units.of(gain.names[0]) if len(gain.names) == 1 else gain.text
    return Planned(plan, days, by_hour, len(rows), rows["user_id"].nunique(), loaded.spec.currency, named)


def whole_users(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """Keep the rows of as many users as fit in `most` rows. The rows must be sorted by user."""
    return rows if len(rows) <= most else rows.iloc[: int((rows["user_id"] == rows["user_id"].iloc[most]).argmax())]


def _by_day(by_hour: pd.Series) -> list[float]:
    """Count the decisions of each day, without the first and last day, which may be incomplete."""
    found = by_hour.resample("D").sum()
    whole: list[float] = (found.iloc[1:-1] if len(found) > 2 else found).tolist()
    return whole


def budgets_of(planned: Planned, experiment: Experiment, start: datetime | None = None) -> list[dict[str, object]]:
    """Convert a plan to the budgets of an experiment file, one for each campaign.

    Args:
        start: Start of the period. By default, the midnight (UTC) after the log's last decision.
    """
    last = planned.by_hour.index[-1].to_pydatetime()
    begins = start or (last.astimezone(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    hour = pd.DatetimeIndex(planned.by_hour.index).hour
    hours = planned.by_hour.groupby(hour).mean().reindex(range(24), fill_value=0.0)
    traffic = [round(float(of_hour / hours.max()), 3) for of_hour in hours]
    low, high = experiment.layer_part
    spends: dict[str, float] = {}
    for part in planned.plan.split:
        spends[part.campaign] = spends.get(part.campaign, 0.0) + part.spend
    ends = begins + timedelta(days=planned.days)
    pacing: dict[str, object] = {"start": begins.isoformat(), "end": ends.isoformat(), "traffic": traffic}
    if planned.plan.chosen.price > 0:
        pacing["price"] = float(f"{planned.plan.chosen.price:.4g}")
    return [
        {"campaign": campaign, "channel": "*", "amount": round(spend / (high - low), 2), "pacing": pacing}
        for campaign, spend in spends.items()
    ]


def write_budgets(planned: Planned, file: str | Path, out: Path, start: datetime | None = None) -> None:
    """Write a copy of an experiment file in which the plan's budgets replace the old ones."""
    path = Path(file)
    text, experiment = path.read_text(encoding="utf-8").rstrip() + "\n", Experiment.load(path)
    found = _BLOCK.search(text)
    assert found is not None, "an experiment has budgets, or a table of them"
    block = {"budgets": budgets_of(planned, experiment, start)}
    budgets = yaml.safe_dump(block, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    changed, own = text[: found.start()] + budgets + _BLOCK.sub("", text[found.end() :]), {"budgets", "budget_table"}
    if Experiment.from_dict(yaml.safe_load(changed)).model_dump(exclude=own) != experiment.model_dump(exclude=own):
        raise InputError(f"{path}: can't find the end of the budgets; begin each of their lines with spaces or a dash")
    with replacing(out) as unfinished:
        unfinished.write_text(changed, encoding="utf-8")
