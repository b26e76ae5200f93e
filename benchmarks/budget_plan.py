"""Compares the gain that was planned for a budget with the gain that the budget then really yields, on the simulator.

    python benchmarks/budget_plan.py --json FILE             # fifty markets; FILE is written after each
    python benchmarks/budget_plan.py --json FILE --resume    # keep the markets in FILE
    python benchmarks/budget_plan.py --quick                 # two small markets

In each market, the log of one week yields plans for 50, 100 and 150 % of the budget. Then other users are served for a
week with each of these budgets.

    counted       gain in the log of the second week, for which the plan has an interval
    expected      the same without the random noise of one week
    not replayed  gain that calibrated forecasts predict at the logged decisions
    forecast      gain that the network predicts at the logged decisions
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _environment import environment, finish, kept_markets, parser

from benchmarks._markdown import Figures, measured_on, table, targets

# Planned budgets, as multiples of the first week's budget.
BUDGETS = (0.5, 1.0, 1.5)
MARKETS, USERS, EPOCHS, ROUNDS = 50, 600, 6, 7
# Number of users in the network's training.
LEARNED_FROM = 2500
# Number of markets per network.
EVERY = 25
# Budget per decision, as a multiple of the mean cost of an exposure.
BUDGET_SHARE = 0.25
EXPLORE = 0.05


def main() -> None:
    options = parser(__doc__, "two markets of 150 users a week, two epochs, one network")
    options.add_argument("--resume", action="store_true", help="keep the markets in FILE; measure the others")
    arguments = options.parse_args()
    settings: dict[str, Any] = {"markets": MARKETS, "users": USERS, "epochs": EPOCHS, "learned_from": LEARNED_FROM}
    if arguments.quick:
        settings = {"markets": 2, "users": 150, "epochs": 1, "learned_from": 400}
    figures = {"settings": settings, "markets": {}, "environment": environment("torch", "numpy", "scipy")}
    if arguments.resume:
        figures["markets"] = kept_markets(options, arguments.json, settings)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, settings["markets"] + 1):
            if str(seed) in figures["markets"]:
                continue
            network = Path(folder) / str((seed - 1) // EVERY)
            figures["markets"][str(seed)] = market(seed, network, **settings)
            for one in figures["markets"][str(seed)]:
                print(f"seed {seed}, " + ", ".join(f"{name} {value:.4g}" for name, value in one.items()), flush=True)
            finish(figures, arguments.json)
    print(budget_plan_table(figures))


def market(seed: int, network: Path, users: int, epochs: int, learned_from: int, **_: Any) -> list[dict[str, float]]:
    """Simulate one market, and return the planned and the realised gain for each budget in `BUDGETS`.

    If the folder `network` has no model, a model is trained first.
    """
    from mtorl.artifact.artifact import load
    from mtorl.evaluation.budget_plan import Curves, Traffic, price_of
    from mtorl.evaluation.replay import Replay
    from mtorl.policy.exploration import Exploration
    from mtorl.simulator.simulator import Simulator, SimulatorConfig

    if not (network / "model").exists():
        _train(network, 1000 + int(network.name), learned_from, epochs)
    model = load(network / "model")
    simulator = Simulator(SimulatorConfig(users=2 * users, seed=seed))
    log = simulator.log()
    budget, price = BUDGET_SHARE * float(log["cost"].mean()), float(log["click"].mean() / log["cost"].mean())
    first, second = simulator.user_ids[:users], simulator.user_ids[users:]
    seen = week(simulator, model, first, 1, budget, price).sort_values(["user_id", "timestamp"], ignore_index=True)
    replay = Replay.of(seen, model, Exploration(share=EXPLORE))
    traffic = Traffic(float(len(seen)), 0.0)  # each user has one opportunity per day
    curves = Curves.of(replay, [share * budget for share in (0.45, 0.8, 1.1, 1.6)], traffic)
    found = []
    for share in BUDGETS:
        planned = curves.point(share * budget * len(seen))
        rows = week(simulator, model, second, 2, share * budget, price)
        low, high = planned.gain_ci
        logged = replay.as_logged(price_of(replay, share * budget))
        gain_BC = replay.response.gain(logged.forecast_BC)
        one = {"share": share, "planned": planned.gain, "low": low, "high": high, "price": planned.price}
        one |= {"not_replayed": float((logged.exposing_BC * gain_BC).sum())}
        one |= {"forecast": float((logged.exposing_BC * logged.forecast_BC).sum())}
        one |= {"counted": float(rows["gain"].sum()), "expected": float(rows["expected_click"].sum())}
        one |= {"paced_price": float(rows["price"].median()), "spent_share": float(rows["cost"].sum() / planned.spend)}
        found.append(one)
    return found


def _train(network: Path, seed: int, users: int, epochs: int) -> None:
    from benchmarks.generation_runs.market import write_log_folder
    from features.sequences.builder import build_windows
    from mtorl.fitting.fit import fit_challenger
    from mtorl.network.training import TrainConfig
    from mtorl.simulator.simulator import Simulator, SimulatorConfig

    simulator = Simulator(SimulatorConfig(users=users, seed=seed))
    network.mkdir()
    write_log_folder(simulator.log(), simulator.spec, network / "log")
    build_windows(network / "log", network / "windows")
    fit_challenger(str(network / "windows"), str(network / "model"), TrainConfig(epochs=epochs, seed=seed), 0.6)


def week(simulator: Any, model: Any, users: list[str], seed: int, budget: float, price: float) -> pd.DataFrame:
    """Simulate a week in which a model serves new users. Returns one row per decision.

    Args:
        budget: Money per decision, in EUR.
        price: Initial price of pacing: the gain per EUR that an ad must yield.
    """
    from benchmarks.generation_runs.night import explored
    from mtorl.policy.decision import action_probabilities
    from mtorl.policy.pacing import Plan, Schedule
    from mtorl.simulator.market import CHANNELS
    from mtorl.window.window import WindowBatch, instance_from_history

    online, spec, count = simulator.online(users, ROUNDS, seed, newcomers=True), model.spec, len(users)
    decisions, random = ROUNDS * count, np.random.default_rng([seed, 3])
    plan = Plan(budget * decisions, Schedule.even(0.0, float(decisions)), grain=max(simulator.cost_cap.values()))
    state, spent, parts = plan.start(price), 0.0, []
    for turn in range(ROUNDS):
        rows = online.rows(turn)
        windows = [instance_from_history(r["history"], r["context"], r["static"], spec, r["at"]) for r in rows]
        forecast = model.forecast(WindowBatch.from_instances(windows, spec))
        size = max(1, decisions // 200)
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            n, now = part.stop - part.start, plan.price(state)
            expected = forecast.rows(part)
            probs_NC, expose_NC = action_probabilities(expected, model.policy, price_BC=now)
            draw_NC, show_NC = explored(probs_NC, expose_NC.astype(float), EXPLORE)
            cumulative_NC = draw_NC.cumsum(axis=1)
            channel_N = (random.random(n)[:, None] >= cumulative_NC / cumulative_NC[:, -1:]).sum(axis=1)
            wanted_N = random.random(n) < show_NC[np.arange(n), channel_N]
            found = online.advance(turn, np.where(wanted_N, channel_N, -1), plan.budget - spent, part)
            spent += float(found["cost"].sum())
            state = plan.update(state, turn * count + part.stop, spent)
            made: dict[str, Any] = {
                "user_id": users[part],
                "campaign_id": "one",
                "timestamp": [w["timestamp"] for w in windows[part]],
            }
            made |= {"window": [json.dumps(w) for w in windows[part]], "channel": np.array(CHANNELS)[channel_N]}
            made |= {"exposed": found["cost"] > 0, "gain": found["click"].astype(float), "price": now}
            parts.append(pd.DataFrame({**made, **found}))
    return pd.concat(parts, ignore_index=True)


def budget_plan_table(figures: Figures) -> str:
    settings, markets = figures["settings"], figures["markets"].values()
    text = (
        f"Markets: {len(markets)}; {settings['users']:,} newcomers in the week that is logged and as many in the week "
        f"that is planned, each with {ROUNDS} opportunities. Intervals are 95 %.\n\n"
    )
    rows, aims = [], []
    for place, share in enumerate(BUDGETS):
        of = {name: np.array([one[place][name] for one in markets]) for name in next(iter(markets))[place]}
        held = ((of["low"] <= of["counted"]) & (of["counted"] <= of["high"])).mean()
        off = of["planned"] / of["expected"] - 1
        cells = [f"{share:.0%}", f"{held:.0%}", f"{((of['high'] - of['low']) / 2 / of['planned']).mean():.0%}"]
        cells += [f"{off.mean():+.1%} +- {1.96 * off.std() / len(off) ** 0.5:.1%}", f"{np.abs(off).mean():.1%}"]
        cells += [f"{(of[name] / of['expected'] - 1).mean():+.1%}" for name in ("not_replayed", "forecast")]
        rows.append([*cells, f"{(of['price'] / of['paced_price'] - 1).mean():+.1%}", f"{of['spent_share'].min():.3f}"])
        aims.append((f"counted gain within the interval, {share:.0%} of the budget: at least", 0.9, held, ".2f"))
    heads = ["budget", "counted gain within the interval", "half of the interval", "plan over expected gain"]
    heads += ["off, mean size", "not replayed", "forecast", "planned over paced price", "least share of it spent"]
    return text + table(heads, rows) + "\n" + targets(aims) + measured_on(figures, "budget_plan.py")


if __name__ == "__main__":
    main()
