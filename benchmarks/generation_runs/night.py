"""A night of traffic: one policy serves, paced and exploring, and uploads its decisions into a lake.

Decisions are taken as the router takes them: a channel is drawn, an exposure wanted or not, and the ledger pays as long
as money is left. The records are those of `mtorl.log.records`, so what follows reads them as it reads a router's.

Shapes: U users, C channels, N the users of one step of the pacing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from mtorl.arrays import Floats
from mtorl.artifact.artifact import Artifact
from mtorl.log.decision_ids import BUCKET, HOUR, decision_id
from mtorl.log.lake import name_of
from mtorl.log.records import Kind, sql_columns
from mtorl.policy.decision import Forecast, action_probabilities
from mtorl.policy.pacing import Plan, Schedule
from mtorl.simulator.market import CHANNELS
from mtorl.simulator.simulator import Online
from mtorl.window.window import WindowBatch, instance_from_history

_STEPS = 50  # of the price, in a round


@dataclass(frozen=True)
class Served:
    """A policy, and how it serves a night.

    Attributes:
        budget: Currency units a decision.
        price: Gain per currency unit to begin with.
        explore: Share of the decisions that are drawn uniformly and always exposed.
    """

    policy: Artifact
    budget: float
    price: float
    explore: float


@dataclass(frozen=True)
class Night:
    """The result of a night, and its truth, which the simulator alone knows.

    Attributes:
        truth: P(click) of every channel at each decision, by decision_id.
        spent_share: Share of the budget.
        entropy: Entropy of the drawn channels, mean over decisions, nats.
    """

    truth: pd.DataFrame
    spent_share: float
    entropy: float


def serve(online: Online, rounds: range, how: Served, number: int, lake: Path) -> Night:
    """Serve all users of a simulator for some rounds, and add the night to a lake."""
    users = online.users
    random = np.random.default_rng([number, 17])
    total = how.budget * len(users) * len(rounds)
    plan = Plan(total, Schedule.even(0.0, float(len(users) * len(rounds))), grain=0.0)
    state, spent = plan.start(how.price), 0.0
    decisions: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []  # windows
    truths: list[Floats] = []
    entropy = 0.0
    for turn, round_index in enumerate(rounds):
        rows = online.rows(round_index)
        spec = how.policy.spec
        windows = [instance_from_history(r["history"], r["context"], r["static"], spec, r["at"]) for r in rows]
        logits_UC, reward_UC, cost_UC = how.policy.predict(WindowBatch.from_instances(windows, spec))
        forecast = Forecast(logits_UC, how.policy.encoder.unreward(reward_UC, cost_UC), cost_UC)
        truths.append(online.click_probability(round_index))
        size = -(-len(users) // _STEPS)
        for first in range(0, len(users), size):
            part = slice(first, min(first + size, len(users)))
            n = part.stop - part.start
            probs_NC, expose_NC = action_probabilities(
                Forecast(*(np.asarray(values)[part] for values in forecast)),
                how.policy.policy,
                price_BC=plan.price(state),
            )
            draw_NC, show_NC = explored(probs_NC, expose_NC.astype(float), how.explore)
            cumulative_NC = draw_NC.cumsum(axis=1)
            channel_N = (random.random(n)[:, None] >= cumulative_NC / cumulative_NC[:, -1:]).sum(axis=1)
            wants_N = random.random(n) < show_NC[np.arange(n), channel_N]
            found = online.advance(round_index, np.where(wants_N, channel_N, -1), total - spent, part)
            shown_N = wants_N & (found["cost"] > 0)
            spent += float(found["cost"].sum())
            entropy -= float((draw_NC * np.log(np.maximum(draw_NC, 1e-12))).sum())
            for i in range(n):
                place = part.start + i
                seconds = rows[place]["at"] / 1e6
                at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
                made = decision_id(rows[place]["user_id"], f"{number:08x}", seconds)
                name = f"{made[:17]}0-8{turn:03x}-{number:04x}{place:08x}"  # the same in each run
                drawn = CHANNELS[int(channel_N[i])]
                decisions.append(
                    {
                        "decision_id": name,
                        "arm": "served",
                        "channel": drawn,
                        "drawn_channel": drawn,
                        "expose": bool(shown_N[i]),
                        "budget_exhausted": bool(wants_N[i] and not shown_N[i]),
                        "experiment": "generations",
                        "experiment_version": f"{number:016x}",
                        "schema_version": 1,
                        "user_id": rows[place]["user_id"],
                        "campaign_id": rows[place]["campaign_id"],
                        "context": json.dumps(rows[place]["context"]),
                        "static": json.dumps(rows[place]["static"]),
                        "channel_probs": json.dumps(dict(zip(CHANNELS, draw_NC[i].tolist(), strict=True))),
                        "exposure_probs": json.dumps(dict(zip(CHANNELS, show_NC[i].tolist(), strict=True))),
                        "model_digest": how.policy.digest,
                        "override": False,
                        "withdrawn": False,
                        "request_time": at,
                        "event_time": at,
                    }
                )
                window = json.dumps(windows[place])
                shown.append({"decision_id": name, "schema_version": 1, "window": window, "event_time": at})
                if shown_N[i]:
                    for kind in ("cost", "click", "conversion", "revenue"):
                        if kind == "cost" or found[kind][i]:
                            outcomes.append(
                                {
                                    "event_id": f"{name}-{kind}",
                                    "decision_id": name,
                                    "schema_version": 1,
                                    "kind": kind,
                                    "value": float(found[kind][i]),
                                    "event_time": at,
                                    "received_time": at,
                                }
                            )
            state = plan.update(state, turn * len(users) + part.stop, spent)
    _upload(lake, "decision", decisions, number)
    _upload(lake, "outcome", outcomes, number)
    _upload(lake, "window", shown, number)
    truth = pd.DataFrame(np.concatenate(truths), columns=list(CHANNELS))
    truth.insert(0, "decision_id", [record["decision_id"] for record in decisions])
    return Night(truth, spent / total, entropy / len(decisions))


def explored(probs_NC: Floats, show_NC: Floats, share: float) -> tuple[Floats, Floats]:
    """Probabilities of drawing, and of exposing what was drawn, if a share is drawn uniformly and always exposed."""
    uniform = share / probs_NC.shape[1]
    draw_NC = (1 - share) * probs_NC + uniform
    return draw_NC, ((1 - share) * probs_NC * show_NC + uniform) / draw_NC


def _upload(lake: Path, kind: Kind, records: list[dict[str, Any]], number: int) -> None:
    columns = sql_columns(kind)
    frame = pd.DataFrame(records).reindex(columns=list(columns)).astype(object)
    typed = ", ".join(f'CAST("{name}" AS {type_}) AS "{name}"' for name, type_ in columns.items())
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'").fetchall()
        db.register(
            "records", frame.where(frame.notna(), None).map(lambda value: None if value is None else str(value))
        )
        rows = db.sql(f"SELECT *, {HOUR} AS hour, {BUCKET} AS bucket FROM (SELECT {typed} FROM records)")
        ((newest,),) = rows.aggregate("max(hour)").fetchall()
        file = lake / name_of(kind, newest, f"{number:02d}", arrived=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        rows.order("decision_id").write_parquet(str(file))
