"""Simulates one night of traffic: a policy serves users with pacing and exploration, and its decisions are logged.

Shapes: U users, C channels, N users between two updates of the price.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.monitoring_runs.days import add_to_lake
from mtorl.arrays import Floats
from mtorl.artifact.artifact import Artifact
from mtorl.log.decision_ids import decision_id
from mtorl.policy.decision import action_probabilities
from mtorl.policy.pacing import Plan, Schedule
from mtorl.simulator.market import CHANNELS
from mtorl.simulator.simulator import Online
from mtorl.window.window import WindowBatch, instance_from_history

_STEPS = 50  # price updates in a round


@dataclass(frozen=True)
class Served:
    """A policy that serves in a night, with its settings.

    Attributes:
        budget: Money per decision, in currency units.
        price: First price of pacing, in gain per currency unit.
        explore: Share of the decisions that show an ad on a random channel.
    """

    policy: Artifact
    budget: float
    price: float
    explore: float


@dataclass(frozen=True)
class Night:
    """The result of a night.

    Attributes:
        truth: True click probability of every channel for each decision, by decision_id.
        spent_share: Share of the budget that was spent.
        entropy: Mean entropy of the channel probabilities, in nats.
    """

    truth: pd.DataFrame
    spent_share: float
    entropy: float


def serve(online: Online, rounds: range, how: Served, number: int, lake: Path) -> Night:
    """Let a policy decide for all users in each round, and add the records to a lake."""
    users, spec = len(online.users), how.policy.spec
    random = np.random.default_rng([number, 17])
    total = how.budget * users * len(rounds)
    plan = Plan(total, Schedule.even(0.0, float(users * len(rounds))), grain=0.0)
    state, spent, entropy = plan.start(how.price), 0.0, 0.0
    decisions: list[pd.DataFrame] = []
    outcomes: list[pd.DataFrame] = []
    truths: list[Floats] = []
    for turn, round_index in enumerate(rounds):
        rows = online.rows(round_index)
        windows = [instance_from_history(r["history"], r["context"], r["static"], spec, r["at"]) for r in rows]
        forecast = how.policy.forecast(WindowBatch.from_instances(windows, spec))
        truths.append(online.click_probability(round_index))
        steps, size = [], -(-users // _STEPS)
        for first in range(0, users, size):
            part = slice(first, min(first + size, users))
            n = part.stop - part.start
            probs_NC, expose_NC = action_probabilities(
                forecast.rows(part), how.policy.policy, price_BC=plan.price(state)
            )
            draw_NC, show_NC = explored(probs_NC, expose_NC.astype(float), how.explore)
            cumulative_NC = draw_NC.cumsum(axis=1)
            channel_N = (random.random(n)[:, None] >= cumulative_NC / cumulative_NC[:, -1:]).sum(axis=1)
            wants_N = random.random(n) < show_NC[np.arange(n), channel_N]
            found = online.advance(round_index, np.where(wants_N, channel_N, -1), total - spent, part)
            steps.append({"draw": draw_NC, "show": show_NC, "channel": channel_N, "wants": wants_N, **found})
            spent += float(found["cost"].sum())
            state = plan.update(state, turn * users + part.stop, spent)
        drawn = {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}
        entropy -= float((drawn["draw"] * np.log(np.maximum(drawn["draw"], 1e-12))).sum())
        decisions.append(_decisions(rows, windows, drawn, how.policy.digest, number, turn))
        outcomes += _outcomes(decisions[-1], drawn)
    decided = pd.concat(decisions, ignore_index=True)
    windows_shown = decided[["decision_id", "schema_version", "window", "event_time"]]
    records = {"decision": decided, "outcome": pd.concat(outcomes, ignore_index=True), "window": windows_shown}
    add_to_lake(lake, records, f"{number:02d}")
    truth = pd.DataFrame(np.concatenate(truths), columns=list(CHANNELS))
    truth.insert(0, "decision_id", decided["decision_id"])
    return Night(truth, spent / total, entropy / len(decided))


def explored(probs_NC: Floats, show_NC: Floats, share: float) -> tuple[Floats, Floats]:
    """Return the probability of each channel, and of showing an ad on the chosen channel, with exploration.

    With the probability `share`, an ad is shown on a random channel.
    """
    uniform = share / probs_NC.shape[1]
    draw_NC = (1 - share) * probs_NC + uniform
    return draw_NC, ((1 - share) * probs_NC * show_NC + uniform) / draw_NC


def _decisions(
    rows: list[dict[str, Any]], windows: list[Any], drawn: dict[str, Any], digest: str, number: int, turn: int
) -> pd.DataFrame:
    """Return the decision records of a round. Their ids contain no random numbers, so they are reproducible."""
    seconds = [row["at"] / 1e6 for row in rows]
    times = [decision_id(row["user_id"], f"{number:08x}", at)[:17] for row, at in zip(rows, seconds, strict=True)]
    shown, channel = drawn["wants"] & (drawn["cost"] > 0), np.array(CHANNELS)[drawn["channel"]]
    made = {
        "decision_id": [f"{at}0-8{turn:03x}-{number:04x}{place:08x}" for place, at in enumerate(times)],
        "channel": channel,
        "drawn_channel": channel,
        "expose": shown,
        "budget_exhausted": drawn["wants"] & ~shown,
        "user_id": [row["user_id"] for row in rows],
        "campaign_id": [row["campaign_id"] for row in rows],
        "context": [json.dumps(row["context"]) for row in rows],
        "static": [json.dumps(row["static"]) for row in rows],
        "channel_probs": [json.dumps(dict(zip(CHANNELS, each, strict=True))) for each in drawn["draw"].tolist()],
        "exposure_probs": [json.dumps(dict(zip(CHANNELS, each, strict=True))) for each in drawn["show"].tolist()],
        "event_time": [datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds") for at in seconds],
        "window": [json.dumps(window) for window in windows],
    }
    same = {"arm": "served", "experiment": "generations", "experiment_version": f"{number:016x}", "schema_version": 1}
    same |= {"model_digest": digest, "override": False, "withdrawn": False}
    return pd.DataFrame(made).assign(request_time=made["event_time"], **same)


def _outcomes(decided: pd.DataFrame, drawn: dict[str, Any]) -> list[pd.DataFrame]:
    found = []
    for kind in ("cost", "click", "conversion", "revenue"):
        of = decided["expose"].to_numpy() & ((kind == "cost") | (drawn[kind] != 0))
        rows = decided.loc[of, ["decision_id", "schema_version", "event_time"]]
        rows = rows.assign(event_id=rows["decision_id"] + f"-{kind}", received_time=rows["event_time"])
        found.append(rows.assign(kind=kind, value=drawn[kind][of].astype(float)))
    return found
