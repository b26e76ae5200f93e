"""Formats the tables of `benchmarks/regret.py`: how close policies come to the best one, and where MTORL loses gain.

Confidence intervals are Student's t intervals over markets.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks._markdown import Figures, Show, measured_on, table, table_of, targets
from benchmarks.regret_runs.market import DECISIONS
from mtorl.arrays import Floats
from mtorl.simulator.market import CHANNELS

BEST = "informed_3"
# Wanted share of the best policy's gain, by opportunities per user.
TARGETS = {"5": 0.95, "15": 0.90}
SHOWN = {
    "incumbent": "incumbent: frequencies of the log",
    "constant": "best constant channel, exposed when MTORL says so",
    "lightgbm": "LightGBM, greedy",
    "served": "**MTORL as served**: soft draw and exploration",
    "greedy": "MTORL, greedy, without the value of the future",
    "future": "MTORL, greedy",
    "informed": "informed",
    "informed_1": "informed, looks 1 step ahead",
    "informed_2": "informed, looks 2 steps ahead",
    "informed_3": "informed, looks 3 steps ahead",
}


def regret_tables(figures: Figures) -> str:
    seeds = ", ".join(figures["markets"])
    users = figures["settings"]["users"]
    text = (
        f"Markets: {len(figures['markets'])} (seeds {seeds}) of {users:,} users, each with a training of its own. "
        f"Held-out users are served, with at most {DECISIONS:,} decisions. All policies are paced alike and have the "
        "same budget. Shares are of the best informed policy's expected clicks; 95 % intervals over markets.\n"
    )
    values = {str(rounds): _values(figures["markets"], str(rounds)) for rounds in figures["settings"]["rounds"]}
    for rounds, of_policy in values.items():
        columns: dict[str, Show] = {
            "": lambda name: SHOWN[name],
            "share of the best (least)": lambda name, of=of_policy: _share(of[name] / of[BEST]),
            "against one step": lambda name, of=of_policy: _mean(of[name] / of["greedy"] - 1),
            "clicks a decision": lambda name, of=of_policy: f"{of[name].mean():.4f}",
        }
        text += f"\n**{rounds} opportunities a user**\n\n{table_of(columns, list(SHOWN))}"
    parts = [_losses(values), _future(values), _longer_log(figures), _aims(figures["markets"], values)]
    return "\n".join([text, *parts]) + measured_on(figures, "regret.py")


def _values(markets: Figures, rounds: str) -> dict[str, Floats]:
    """Return the clicks per decision of each policy in each market. "constant" is the best single channel."""
    names = next(iter(markets.values()))[rounds]
    found = {name: np.array([one[rounds][name]["value"] for one in markets.values()]) for name in names}
    constant = [values for channel in CHANNELS if (values := found.get(f"only_{channel}")) is not None]
    return {**found, "constant": np.max(constant, axis=0)} if constant else found


def _losses(values: Mapping[str, dict[str, Floats]]) -> str:
    parts: dict[str, Any] = {
        "value of the future": lambda of: of[BEST] - of["informed"],
        "when to expose": lambda of: _half(of, "channel_informed", "when_informed"),
        "channel choice": lambda of: _half(of, "when_informed", "channel_informed"),
        "less: what the network's value of the future earns": lambda of: of["greedy"] - of["future"],
        "soft draw and exploration": lambda of: of["future"] - of["served"],
        "all: MTORL as served": lambda of: of[BEST] - of["served"],
    }
    rows = [[name, *(_mean(loss(of) / of[BEST], sign="") for of in values.values())] for name, loss in parts.items()]
    heads = ["lost, of the best informed", *(f"{rounds} rounds" for rounds in values)]
    return "**Where the served policy loses**\n\n" + table(heads, rows)


def _half(of: Mapping[str, Floats], kept: str, replaced: str) -> Floats:
    """Return the gain lost because MTORL, not the informed policy, makes one of its two choices."""
    # Average over the two cases that the informed policy or MTORL makes the other choice.
    return ((of["informed"] - of[kept]) + (of[replaced] - of["greedy"])) / 2


def _future(values: Mapping[str, dict[str, Floats]]) -> str:
    rows = []
    for rounds, of in values.items():
        gain = of["future"] / of["greedy"] - 1
        served = of["served"] / of["greedy"] - 1
        of_markets = [f"{number.sum()} of {len(gain)}" for number in (gain >= 0.01, gain != 0)]
        rows.append([rounds, _mean(gain), f"{gain.min():+.1%}", _mean(served), *of_markets])
    heads = ["rounds", "with it against without, both greedy", "least", "as served against without, greedy"]
    heads += ["markets with at least +1 %", "markets where it is on"]
    return "**What the network's value of the future earns**\n\n" + table(heads, rows)


def _longer_log(figures: Figures) -> str:
    """Format a table of the served policy's gain by number of users in the log, over the same markets."""
    sizes = {str(figures["settings"]["users"]): figures["markets"], **figures.get("larger", {})}
    common = [seed for seed in figures["markets"] if all(seed in markets for markets in sizes.values())]
    rows = []
    for users, markets in sizes.items():
        of_seeds = {seed: markets[seed] for seed in common}
        values = (_values(of_seeds, rounds) for rounds in TARGETS if rounds in of_seeds[common[0]])
        rows.append([f"{int(users):,}", *(_share(of["served"] / of[BEST]) for of in values)])
    heads = ["users of the log", *(f"{rounds} rounds" for rounds in TARGETS)]
    return f"**MTORL as served with a longer log**, seeds: {', '.join(common)}\n\n" + table(heads, rows)


def _aims(markets: Figures, values: Mapping[str, dict[str, Floats]]) -> str:
    played = [one for of_rounds in markets.values() for each in of_rounds.values() for one in each.items()]
    aims = [
        (f"share of the best informed, {rounds} rounds: at least", aim, float((of["served"] / of[BEST]).mean()), ".3f")
        for rounds, aim in TARGETS.items()
        if (of := values.get(rounds))
    ]
    used = min(one["spent_share"] for name, one in played if name == "served")
    aims.append(("share of its budget that the served policy used, least: at least", 0.99, used, ".3f"))
    aims.append((f"overspent budgets, of {len(played)}", 0, sum(one["spent_share"] > 1 for _, one in played), "d"))
    return targets(aims)


def _share(share: Floats) -> str:
    return f"{share.mean():.3f}{_interval(share, '.3f')} ({share.min():.3f})"


def _mean(part: Floats, sign: str = "+") -> str:
    return f"{part.mean():{sign}.1%}{_interval(part, f'{sign}.1%')}"


def _interval(of_market: Floats, form: str) -> str:
    if len(of_market) == 1:
        return ""
    half = t.ppf(0.975, len(of_market) - 1) * of_market.std(ddof=1) / np.sqrt(len(of_market))
    return f" [{of_market.mean() - half:{form}}, {of_market.mean() + half:{form}}]"
