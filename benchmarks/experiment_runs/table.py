"""Formats the figures of `experiments.py` as tables."""

from benchmarks._markdown import Figures, Show, measured_on, table, table_of
from benchmarks.experiment_runs import arrivals, guarded, late, paced
from benchmarks.experiment_runs.markets import DECISIONS_OF_A_BOT, Clicks, Revenue
from benchmarks.experiment_runs.returning import NEW, VISITS_BEFORE
from mtorl.experiment.inference.heavy_users import HEAVIEST

_MARKETS = (
    f"Clicks: {Clicks.users:,} users who decide three times on average and click {Clicks.rate:.0%} of the time, each "
    f"at a rate of its own. Revenue: {Revenue.users:,} users of whom {Revenue.rate:.0%} buy for lognormal amounts with "
    f"a sigma of {Revenue.sigma:g}; with the heavier tail, of 2. Bots decide {DECISIONS_OF_A_BOT:,.0f} times each, "
    f"count as {HEAVIEST:g} typical users, and make 60 % of all decisions without any gain; those that click at every "
    f"decision make 10 %. Users who come back are fewer: {Clicks.population:,} and {Revenue.population:,} over a ramp, "
    "a tenth of that in a week.\n"
)


def experiment_tables(figures: Figures) -> str:
    return (
        f"{_worst(figures)}\n{_MARKETS}\n"
        f"**A/A: false verdicts at any look.** Users come once.\n\n{_same(figures)}\n"
        "**A/A: users come back.** One kind of experiment ramps over 1, 5, 25 and 50 %, with 32 verdicts. The other "
        f"has a verdict each hour of a week. The covariates are the user's outcomes of {VISITS_BEFORE} earlier visits, "
        f"and a forecast. {NEW:.0%} of the users have no covariates.\n\n"
        f"{_returning(figures)}\n"
        f"{_uneven(figures)}\n"
        f"{_late(figures)}\n"
        "**The challenger is better**, with a verdict each hour of four weeks. The table shows how often a verdict "
        "decided, and after which share of the users on average. The fixed-horizon interval is computed once, at the "
        "end.\n\n"
        f"{_better(figures)}\n"
        f"**With guardrails**, {figures['guarded'][0]['runs']:,} experiments of {guarded.USERS:,} users, with "
        f"{guarded.LOOKS} verdicts each. The primary metric is clicks; each guardrail allows {guarded.MARGIN:.0%} more "
        "cost. The table shows how often each verdict came first, and the median number of users until then. If the "
        f"guardrails are worse by exactly {guarded.MARGIN:.0%}, a verdict `guardrail` is false. If they are slightly "
        "worse than that, a verdict `ship` is false.\n\n"
        f"{_guarded(figures)}\n"
        f"**Identical arms under a daily budget**, paced for {paced.DAYS} days. The first price is the median "
        "forecast. `spent` is the mean share of an arm's budget that it spent. The lift is in gain per decision, with "
        "its 95 % interval over the runs. No budget was exceeded.\n\n"
        f"{_paced(figures)}" + measured_on(figures, "experiments.py")
    )


def _worst(figures: Figures) -> str:
    alike = [*figures["same"], *figures["ramps"], *figures["returning"], *figures["uneven"]]
    worst = max(alike, key=lambda row: row["missed"])
    return (
        f"{len(alike)} kinds of A/A experiments, {worst['runs']:,} runs each, or {figures['ramps'][0]['runs']:,} where "
        f"users come back: the worst has {worst['missed']:.1%} false verdicts, at most {worst['missed_at_most']:.1%} "
        "(upper end of a 95 % interval); alpha is 5 %.\n"
    )


def _rate(row: Figures) -> str:
    return f"{row['missed']:.1%} (at most {row['missed_at_most']:.1%})"


def _same(figures: Figures) -> str:
    rows = figures["same"]
    shares = sorted({row["share"] for row in rows})
    kinds = list(dict.fromkeys((row["market"], row["looks"]) for row in rows))
    cells = {(row["market"], row["looks"], row["share"]): _rate(row) for row in rows}
    return table(
        ["metric, looks", *(f"share {share:.0%}" for share in shares)],
        [[f"{market}, {looks}", *(cells[market, looks, share] for share in shares)] for market, looks in kinds],
    )


def _returning(figures: Figures) -> str:
    rows = [
        [f"{row['market']}, ramp{', with covariates' if row['adjusted'] else ''}", _rate(row)]
        for row in figures["ramps"]
    ]
    rows += [[f"{row['market']}, hourly, share {row['share']:.0%}", _rate(row)] for row in figures["returning"]]
    return table(["metric", "false verdicts"], rows)


def _uneven(figures: Figures) -> str:
    rates = ", ".join(f"{_rate(row)} at a share of {row['share']:.0%}" for row in figures["uneven"])
    return (
        f"Where {arrivals.USERS:,} users differ in how often they decide (lognormal, a sigma of "
        f"{arrivals.SIGMA:g}), and the busy ones click less, false verdicts of A/A experiments are {rates}.\n"
    )


def _late(figures: Figures) -> str:
    return (
        f"**A/A: outcomes of one arm arrive later.** {late.LATE:.0%} of the incumbent's clicks are too late to count, "
        "and more of the challenger's. Late clicks are read 1, 3 or 8 days after those in time; looks are daily, from "
        f"the seventh day; {figures['late'][0]['runs']:,} runs each.\n\n"
        + table_of(
            {
                "late clicks of the challenger": lambda row: f"{late.LATE + row['gap']:.0%}",
                "false verdicts": _rate,
                "if late clicks were ignored": lambda row: f"{row['in_time_only']:.1%}",
            },
            figures["late"],
        )
    )


def _better(figures: Figures) -> str:
    columns: dict[str, Show] = {
        "metric": lambda row: row["market"],
        "lift": lambda row: f"{row['lift']:+.0%}",
        "share": lambda row: f"{row['share']:.0%}",
        "covered at all looks": lambda row: f"{1 - row['missed']:.1%} (at least {1 - row['missed_at_most']:.1%})",
        "decided": lambda row: f"{row['decided']:.1%}",
        "after": lambda row: "" if row["users_share"] is None else f"{row['users_share']:.0%}",
        "one look": lambda row: f"{row['fixed']:.1%}",
    }
    return table_of(columns, figures["better"])


def _guarded(figures: Figures) -> str:
    columns: dict[str, Show] = {
        "lift": lambda row: f"{row['lift']:+.0%}",
        "guardrails worse by": lambda row: f"{row['harm']:.0%}",
        "share": lambda row: f"{row['share']:.0%}",
        "guardrails": lambda row: str(row["guardrails"]),
        "ship": lambda row: f"{row['ship']:.1%}",
        "stop": lambda row: f"{row['stop']:.1%}",
        "guardrail": lambda row: f"{row['guardrail']:.1%}",
        "median users": lambda row: "" if row["users"] is None else f"{row['users']:,.0f}",
    }
    return table_of(columns, figures["guarded"])


def _paced(figures: Figures) -> str:
    columns: dict[str, Show] = {
        "share of the challenger": lambda row: row["share"],
        "decisions a day": lambda row: f"{row['decisions_a_day']:,}",
        "runs": lambda row: str(row["runs"]),
        "spent, incumbent": lambda row: f"{row['spent_incumbent']:.1%}",
        "spent, challenger": lambda row: f"{row['spent_challenger']:.1%}",
        "lift (true: 0)": lambda row: f"{row['lift']:+.1%} +- {row['margin']:.1%}",
    }
    return table_of(columns, figures["paced"])
