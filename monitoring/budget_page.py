"""Writes the HTML page of a budget plan."""

from __future__ import annotations

from pathlib import Path

from mtorl.evaluation.budget_plan import MORE, BudgetPlan
from mtorl.pages.charts import BLUE, ORANGE, Chart, draw, line, marks, scatter, vertical
from mtorl.pages.page import write_page


def render(plan: BudgetPlan, path: Path, days: float, currency: str, gain: str, based_on: str) -> Path:
    """Write the page of a budget plan to `path`.

    Args:
        days: Length of the planned period, in days.
        gain: Unit of the gain, such as "clicks".
        based_on: Text for the footer, about the decisions on which the plan is based.
    """
    shown = {"plan": plan, "days": days, "currency": currency, "gain": gain, "based_on": based_on, "more": MORE}
    template = Path(__file__).parent / "budget_page.html.j2"
    return write_page(path, template, {**shown, "curve": _curve(plan, currency, gain)})


def _curve(plan: BudgetPlan, currency: str, gain: str) -> Chart:
    spends, points = [point.spend for point in plan.curve], plan.curve
    band = scatter(
        x=[*spends, *spends[::-1]],
        y=[point.gain_ci[1] for point in points] + [point.gain_ci[0] for point in points][::-1],
        mode="lines",
        fill="toself",
        fillcolor="rgba(63, 127, 217, 0.15)",
        line={"width": 0},
        hoverinfo="skip",
        name="95 % of such periods",
    )
    today = scatter(
        x=[plan.today.spend], y=[plan.today.gain], mode="markers", name="today", marker={"size": 11, "color": ORANGE}
    )
    html = draw(
        "curve",
        [band, line("planned", spends, [point.gain for point in points], BLUE), today],
        shapes=[vertical(plan.chosen.spend)],
        annotations=marks([(plan.chosen.spend, "this budget", "left")]),
        margin={"l": 62, "r": 16, "t": 62, "b": 46},
        xaxis={"title": f"spend, {currency}", "rangemode": "tozero", "showgrid": False},
        yaxis={"title": gain, "rangemode": "tozero"},
    )
    low, high = points[0], points[-1]
    return Chart(html, f"Gain by spend, from {low.gain:.4g} at {low.spend:.4g} to {high.gain:.4g} at {high.spend:.4g}.")
