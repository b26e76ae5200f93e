"""The figures of `experiments.py` as tables."""

from __future__ import annotations

from benchmarks._markdown import Figures, measured_on, table
from benchmarks.experiment_runs import bots
from benchmarks.experiment_runs.adjusted import NEW, VISITS_BEFORE
from benchmarks.experiment_runs.markets import DECISIONS_OF_A_BOT, Clicks, Revenue
from mtorl.experiment.heavy_users import HEAVIEST

_MARKETS = (
    f"Clicks: {Clicks.users:,} users who decide three times on average and click {Clicks.rate:.0%} of the time, each "
    f"at a rate of its own; with bots, one user in 1,000 decides {DECISIONS_OF_A_BOT:,.0f} times, never clicks, and "
    f"counts as {HEAVIEST:g} typical users. "
    f"Revenue: {Revenue.users:,} users of whom {Revenue.rate:.0%} buy for lognormal amounts with "
    f"a sigma of {Revenue.sigma:g}; with the heavier tail, of 2. Users who come back are fewer: {Clicks.population:,} "
    f"and {Revenue.population:,} over a ramp, a tenth of that in a week.\n"
)

_BOTS = (
    f"Looked at {len(bots.LOOKS)} times, after 100 to {Clicks.users:,} users. False verdicts: of A/A runs; the bot "
    f"clicks on nothing, or on everything. The guardrail is a cost of {bots.COST:g} a decision and a margin of "
    f"{bots.MARGIN:g}. False rollbacks: the challenger costs just as much more as is accepted, and the bot costs 1 a "
    f"decision. Harm found: the challenger costs {bots.HARM:g} more and the bot nothing; after so many users of the "
    "challenger, on average. *No weights*: likewise, if a bot counts for all its decisions.\n"
)


def experiment_tables(figures: Figures) -> str:
    """False verdicts, coverage and power, sample ratio mismatch."""
    return (
        f"{_worst(figures)}\n{_MARKETS}\n"
        f"**A/A: false verdicts at any look.** Users come once.\n\n{_same(figures)}\n"
        f"**A/A: users come back.** A ramp of 1, 5, 25 and 50 %, looked at 32 times, and a week of hourly looks.\n\n"
        f"{_returning(figures)}\n"
        f"**A bot in the challenger's arm** makes a share of its decisions; {figures['bots'][0]['runs']:,} runs each. "
        f"{_BOTS}\n{_bots(figures)}\n"
        f"{_uneven(figures)}\n"
        "**The challenger is better**, looked at every hour of four weeks. Decided: at some look, after which share of "
        "all users on average; beside it the fixed-horizon interval, at its one look at the end.\n\n"
        f"{_better(figures)}\n"
        f"**Sample ratio mismatch**, looked at 20 times; in the ramp 32 times.\n\n{_srm(figures)}"
        + measured_on(figures, "experiments.py")
    )


def plan_table(figures: Figures) -> str:
    """What was planned, and what came of it."""
    rows = [
        (
            f"{row['market']}, {row['lift']:+.0%}",
            f"explain {row['explained']:.0%}" if row["known"] else "",
            f"{row['users']:,}",
            f"{row['power']:.1%}",
            f"{row['users_small'][1]:,.0f} ({row['users_small'][0]:,} to {row['users_small'][2]:,})",
        )
        for row in figures["rows"]
    ]
    return (
        "The markets are those of [experiments.md](experiments.md). Planned for 80 %, with a log of "
        f"{figures['large']:,} users; {figures['runs']:,} experiments of as many other users, looked at every hour of "
        f"four weeks. Beside it, what {figures['logs']} logs of {figures['small']:,} users would have planned. "
        "Covariates are a past and a forecast, which a fifth of the users lack, and the share of the variance is that "
        "which the plan says.\n\n"
        + table(
            (
                "the challenger is better by",
                "covariates",
                "users",
                "found it",
                "users, by small logs: median (least to most)",
            ),
            rows,
        )
        + measured_on(figures, "plan.py")
    )


def _worst(figures: Figures) -> str:
    alike = [*figures["same"], *figures["ramps"], *figures["returning"], *figures["uneven"]]
    worst = max(alike, key=lambda row: row["missed_at_most"])
    return (
        f"{len(alike)} kinds of A/A experiments, {worst['runs']:,} runs each: the worst has {worst['missed']:.1%} "
        f"false verdicts, at most {worst['missed_at_most']:.1%} (upper end of a 95 % interval); alpha is 5 %.\n"
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
    rows = [[f"{row['market']}, ramp", _rate(row)] for row in figures["ramps"]]
    rows += [[f"{row['market']}, hourly, share {row['share']:.0%}", _rate(row)] for row in figures["returning"]]
    return table(["metric", "false verdicts"], rows)


def _bots(figures: Figures) -> str:
    rows = [
        [
            f"{row['share']:.0%}",
            f"{row['of_decisions']:.0%}",
            *(f"{row['missed'][what]:.1%} (at most {row['missed_at_most'][what]:.1%})" for what in ("nothing", "all")),
            f"{row['rolled_back']:.1%} (at most {row['rolled_back_at_most']:.1%})",
            f"{row['found']:.1%} after {row['found_users']:,.0f}",
            f"{row['found_uncapped']:.1%}",
        ]
        for row in figures["bots"]
    ]
    heads = ["share", "the bot's decisions", "false verdicts, clicks on nothing", "on everything"]
    return table([*heads, "false rollbacks", "harm found", "no weights"], rows)


def _uneven(figures: Figures) -> str:
    rates = ", ".join(f"{_rate(row)} at a share of {row['share']:.0%}" for row in figures["uneven"])
    return (
        f"Where {bots.UNEVEN_USERS:,} users differ in how often they decide (lognormal, a sigma of "
        f"{bots.UNEVEN_SIGMA:g}), and the busy ones click less, false verdicts of A/A experiments are {rates}.\n"
    )


def _better(figures: Figures) -> str:
    rows = []
    for row in figures["better"]:
        users = "" if row["users_share"] is None else f"{row['users_share']:.0%}"
        rows.append(
            [
                row["market"],
                f"{row['lift']:+.0%}",
                f"{row['share']:.0%}",
                f"{1 - row['missed']:.1%} (at least {1 - row['missed_at_most']:.1%})",
                f"{row['decided']:.1%}",
                users,
                f"{row['fixed']:.1%}",
            ]
        )
    heads = ["metric", "lift", "share", "covered at all looks", "decided", "after", "one look"]
    return table(heads, rows)


def _srm(figures: Figures) -> str:
    rows = [
        [row["share"], f"{row['lost']:.0%}", f"{row['alarms']:.1%} (at most {row['alarms_at_most']:.1%})"]
        for row in figures["srm"]
    ]
    return table(["share", "users lost", "alarms"], rows)


def verdict_table(figures: Figures) -> str:
    """Time and memory of a verdict, by the size of the log."""
    rows = [
        [
            f"{run['decisions']:,}",
            f"{run['users']:,}",
            f"{run['cpu_seconds']:.0f}",
            f"{run['seconds']:.0f}",
            f"{run['peak_mib']:,.0f}",
        ]
        for run in figures["runs"]
    ]
    head = (
        "`mtorl experiment verdict` on a ramp of a fortnight, with two changes of the stage in mid-day, so that it "
        "looks at both, with and without these days.\n\n"
    )
    heads = ["decisions", "users", "CPU s", "s", "peak memory, MiB (the step has 2,048)"]
    return head + table(heads, rows) + measured_on(figures, "verdict.py")


def adjustment_tables(figures: Figures) -> str:
    """Users that covariates save, and the error rates with them."""
    alike = [*figures["same"], *figures["ramps"]]
    worst = max(alike, key=lambda row: row["missed_at_most"])
    covered = min(figures["better"], key=lambda row: 1 - row["missed_at_most"])
    return (
        f"{len(alike)} kinds of A/A experiments with covariates, {worst['runs']:,} runs each: the worst has "
        f"{worst['missed']:.1%} false verdicts, at most {worst['missed_at_most']:.1%} (upper end of a 95 % interval); "
        f"alpha is 5 %. The true lift is covered at all looks together in {1 - covered['missed']:.1%}, at least "
        f"{1 - covered['missed_at_most']:.1%}, of the experiments.\n\n"
        "**Users of the project's simulator.** The incumbent serves alone for some days, then half of the users get "
        f"the challenger. After how many users have 80 % of {figures['users'][0]['runs']:,} experiments, looked at "
        "all the time, found it better? A touchpoint log of three weeks, some 12 of each user, lies before all that; "
        "the forecast is the incumbent's own, of a click in the channel that it chooses.\n\n"
        + _saved(figures)
        + "\n**A/A: false verdicts at any look**, users come once; the covariates are what a user did in "
        f"{VISITS_BEFORE} visits before, and a forecast. {NEW:.0%} of the users have neither.\n\n"
        + _same(figures)
        + "\n**A/A over a ramp** of 1, 5, 25 and 50 %, looked at 32 times; users come back.\n\n"
        + table(["metric", "false verdicts"], [[row["market"], _rate(row)] for row in figures["ramps"]])
        + "\n**The challenger is better**, looked at every hour of four weeks.\n\n"
        + _adjusted_lifts(figures)
        + measured_on(figures, "adjustment.py")
    )


def _saved(figures: Figures) -> str:
    rows, alone = [], None
    for row in figures["users"]:
        alone = row["users"] if row["known"] == "nothing" else alone
        saved = "" if row["users"] is None or not alone else f"{row['users'] / alone - 1:+.0%}".replace("+0%", "")
        rows.append(
            [
                f"{row['incumbent']}, {row['days_before']} days before, {row['days']} days",
                f"{row['lift']:+.1%}",
                row["known"],
                f"{row['variance_ratio']:.2f}",
                "not found" if row["users"] is None else f"{row['users']:,}",
                saved,
            ]
        )
    return table(["incumbent", "lift", "known of the users", "variance", "users for 80 %", ""], rows)


def _adjusted_lifts(figures: Figures) -> str:
    rows = [
        [
            row["market"],
            f"{row['lift']:+.0%}",
            f"{row['share']:.0%}",
            "yes" if row["adjusted"] else "no",
            f"{1 - row['missed']:.1%} (at least {1 - row['missed_at_most']:.1%})",
            f"{row['decided']:.1%}",
            "" if row["users_share"] is None else f"{row['users_share']:.0%}",
        ]
        for row in figures["better"]
    ]
    return table(["metric", "lift", "share", "adjusted", "covered at all looks", "decided", "after"], rows)


def futility_table(figures: Figures) -> str:
    """How experiments end that may be given up."""
    rows = [
        [
            f"{row['market']}, share {row['share']:.0%}",
            f"{row['planned']:+.0%}",
            f"{row['true']:+.1%}",
            f"{row['ever futile']:.1%} (at most {row['futile_at_most']:.1%})",
            f"{row['better']:.1%}",
            f"{row['worse']:.1%}",
            f"{row['futile']:.1%}",
            f"{row['users_share']:.0%}",
        ]
        for row in figures["rows"]
    ]
    heads = ["metric", "planned", "true lift", "ever futile", "ends better", "worse", "futile", "users it took"]
    return (
        f"The markets are those of [experiments.md](experiments.md), {figures['runs']:,} experiments each, looked at "
        "every hour of four weeks. *Ever futile* at the planned lift is the error of giving up, whose probability is "
        f"at most beta = {figures['beta']:.0%}. An experiment ends with what is said first, or with the four weeks.\n\n"
        + table(heads, rows)
        + measured_on(figures, "futility.py")
    )


def shared_budget_table(figures: Figures) -> str:
    """Bias and coverage of a budget that arms share, and of one that is split."""
    rows = [
        [
            row["kind"],
            row["budget"],
            f"{row['truth']:+.1%}",
            f"{row['bias']:+.1%} +- {row['bias_error']:.1%}",
            f"{row['covered']:.1%} (at least {row['covered_at_least']:.1%})",
            f"{row['wrong']:.1%}",
        ]
        for row in figures["rows"]
    ]
    heads = ["the challenger has", "budget", "true lift", "bias", "truth covered", "wrong sign"]
    return (
        f"{figures['rows'][0]['runs']:,} experiments of {figures['users']:,} users each over {figures['days']} days, "
        "half of them the challenger's; what a day's money does not suffice for is not exposed. The truth is all users "
        "with the one policy and the whole budget, less the same with the other. Lift and bias are of clicks per "
        "decision, relative to the incumbent alone. *Wrong sign*: the interval lies on the wrong side of zero, or, "
        "where the truth is zero, above it.\n\n" + table(heads, rows) + measured_on(figures, "shared_budget.py")
    )
