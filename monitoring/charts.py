"""Draws the charts of the report of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtorl.pages.charts import (
    BLUE,
    GREEN,
    GREY,
    PALE_BLUE,
    PALE_GREY,
    WIDE,
    Chart,
    bar,
    draw,
    line,
    marks,
    names_axis,
    scatter,
    vertical,
)

Row = Mapping[str, Any]
# Label, estimated value, both ends of the interval, and colour.
_Interval = tuple[str, float, Sequence[float], str]


def journey_lengths(journeys: Sequence[Row], longest: int) -> Chart:
    """Draw how many users have 1, 2, 3 ... touchpoints. The last bar counts all users with `longest` or more."""
    lengths = [row["length"] for row in journeys]
    ticks = [tick for tick in (1, 5, 10, 15, 20, 25) if tick <= max(lengths)]
    labels = [str(tick) for tick in ticks]
    if longest in lengths:
        ticks, labels = [*ticks, longest], [*labels, f"{longest}+"]
    html = draw(
        "journey-lengths",
        [
            bar(
                x=lengths,
                y=[row["users"] for row in journeys],
                marker_color=BLUE,
                hovertemplate="%{x} touchpoints: %{y:,} users<extra></extra>",
            )
        ],
        hovermode="x unified",
        xaxis={"title": "touchpoints of a user", "tickvals": ticks, "ticktext": labels, "showgrid": False},
        yaxis={"title": "users", "tickformat": ",d", "rangemode": "tozero"},
        bargap=0.15,
    )
    return Chart(html, f"Number of users by number of touchpoints, {min(lengths)} to {max(lengths)}.")


def training(history: Sequence[Row], best_epoch: int) -> Chart:
    """Draw the training loss and the validation loss of each epoch."""
    epochs = [row["epoch"] for row in history]
    traces = [
        line("training users", epochs, [row["train_loss"] for row in history], GREY),
        line("validation users", epochs, [row["val_loss"] for row in history], BLUE),
    ]
    # The note "kept" is inside the plot, because the legend is above it.
    notes = [{**note, "yanchor": "top", "xshift": 4} for note in marks([(best_epoch, "kept", "left")])]
    html = draw(
        "training",
        traces,
        shapes=[vertical(best_epoch)],
        annotations=notes,
        hovermode="x unified",
        xaxis={"title": "epoch", "showgrid": False, "tickformat": "d", "nticks": min(len(epochs), 15)},
        yaxis={"title": "loss"},
    )
    kept = f"the weights of epoch {best_epoch} are kept"
    return Chart(html, f"Loss on training and validation users over {len(epochs)} epochs; {kept}.")


def policy_values(rows: Sequence[_Interval], unit: str) -> Chart:
    """Draw the estimated value of each policy with its confidence interval."""
    html = _intervals("gate", rows, unit)
    return Chart(html, "Off-policy value: " + ", ".join(f"{row[0]} {row[1]:.4g}" for row in rows) + ".")


def lift(experiment: Row, metric: str) -> Chart:
    """Draw the challenger's lift with two confidence intervals: one is always valid, and one holds for a single look.

    A dashed line marks the true lift if the traffic was simulated.
    """
    value, true = experiment["lift"], experiment["true_lift"]
    intervals = (("always valid", "lift_ci", BLUE), ("one look", "lift_ci_fixed", GREY))
    rows = [(label, value, experiment[key], colour) for label, key, colour in intervals if None not in experiment[key]]
    shapes, words = [vertical(0, GREY, "solid")], [(0.0, "no lift ", "right" if (true or value) > 0 else "left")]
    if true is not None:
        shapes.append(vertical(true, GREEN, "dash"))
        words.append((true, " true lift", "left" if true > 0 else "right"))
    layout = {"shapes": shapes, "annotations": marks(words), "margin": {**WIDE, "t": 26}}
    html = _intervals("lift", rows, f"challenger − incumbent, {metric}", [at for at, *_ in words], **layout)
    return Chart(html, f"Lift, {metric}: {value:+.4g} with its intervals.")


def _intervals(name: str, rows: Sequence[_Interval], title: str, seen: Sequence[float] = (), **layout: Any) -> str:
    ends = [*seen, *(end for _, value, interval, _ in rows for end in (value, *interval))]
    pad = 0.05 * (max(ends) - min(ends)) or 1.0
    traces = []
    for label, value, interval, colour in reversed(rows):
        of_value = {"array": [interval[1] - value], "arrayminus": [value - interval[0]]}
        look = {"type": "data", "symmetric": False, "thickness": 2.5, "width": 0, "color": colour}
        traces.append(
            scatter(
                x=[value],
                y=[label],
                error_x={**of_value, **look},
                mode="markers",
                marker={"size": 10, "color": colour},
                hovertemplate="%{x:.4g}<extra></extra>",
                showlegend=False,
            )
        )
    return draw(
        name,
        traces,
        height=80 + 36 * len(rows),
        xaxis={"title": title, "nticks": 6, "range": [min(ends) - pad, max(ends) + pad]},
        yaxis={**names_axis(), "range": [-0.6, len(rows) - 0.4]},
        **layout,
    )


def budgets(budget: Mapping[str, Row]) -> Chart:
    """Draw a bar for each arm's budget, divided into money spent, money reserved, and money left."""
    arms = list(reversed(list(budget)))
    part = {name: [float(budget[arm][name]) for arm in arms] for name in ("limit", "spent", "reserved")}
    used = zip(part["limit"], part["spent"], part["reserved"], strict=True)
    part["left"] = [max(limit - spent - reserved, 0.0) for limit, spent, reserved in used]
    traces = [
        bar(
            name=name,
            y=arms,
            x=part[name],
            orientation="h",
            marker_color=colour,
            hovertemplate="%{x:,.2f}<extra>" + name + "</extra>",
        )
        for name, colour in (("spent", BLUE), ("reserved", PALE_BLUE), ("left", PALE_GREY))
    ]
    html = draw(
        "budgets",
        traces,
        height=100 + 38 * len(arms),
        barmode="stack",
        bargap=0.35,
        hovermode="y unified",
        xaxis={"title": "currency units", "nticks": 6, "showgrid": False},
        yaxis=names_axis(),
    )
    totals = zip(arms, part["spent"], part["limit"], strict=True)
    words = [f"{arm} {spent:,.2f} of {limit:,.2f}" for arm, spent, limit in totals]
    return Chart(html, f"Spent: {', '.join(reversed(words))}.")
