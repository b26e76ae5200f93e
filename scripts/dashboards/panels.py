"""Panels of the dashboards: a number, lines over time, states over time, a table.

    stat("Decisions", "How many are asked for.", "sum(rate(mtorl_decisions_total{NS}[5m]))", unit="reqps")

`{NS` in a query stands for the chosen namespace, `EXP` for the chosen experiment. All panels have a title, and a
description of what they show. Widths are in 24ths of a page; the numbers of a section share one row evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import stat as stat_builder
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from scripts.dashboards.limits import Limit, runbook

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
Panel = Builder[models.Panel]
Texts = Mapping[str, tuple[str, str]]
"""Value -> the word shown in its place, and its color."""
_P = TypeVar("_P", stat_builder.Panel, timeseries.Panel, statetimeline.Panel, table.Panel)


class Column(NamedTuple):
    """A column of a table that has a value of a query."""

    title: str
    expr: str
    unit: str = units.Short
    limit: Limit | None = None
    texts: Texts | None = None
    decimals: int | None = None


def promql(expr: str) -> str:
    """A query with the variables of the dashboard."""
    written = expr.replace("{NS", '{namespace="$namespace"').replace("EXP", 'experiment="$experiment"')
    return " ".join(written.split())


def stat(
    title: str,
    description: str,
    query: str,
    *,
    legend: str = "",
    unit: str = units.Short,
    limit: Limit | None = None,
    bad: Mapping[float, str] | None = None,
    texts: Texts | None = None,
    named: bool = False,
    empty: str = "no data",
) -> Panel:
    """A number of this moment, or one for each series.

    Args:
        legend: Name of each series.
        limit: An alert's, by which it is colored.
        bad: Or: the color from a value on.
        texts: Words in place of values.
        named: Shows the names of series, and not their values.
        empty: Shown without data.
    """
    mode = common.BigValueTextMode.NAME if named else common.BigValueTextMode.AUTO
    panel = (
        stat_builder.Panel()
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .text_mode(mode)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .no_value(empty)
        .with_target(_target(query, "A", legend).instant())
        .height(4)
    )
    panel = _described(panel, title, description, 4, unit, limit, bad)
    no_number = _no_number(empty)  # a share of nothing, for instance
    return panel.mappings([no_number] if texts is None else [_words(texts), no_number])


def lines(
    title: str,
    description: str,
    queries: Mapping[str, str],
    *,
    unit: str = units.Short,
    limit: Limit | None = None,
    line_at: float | None = None,
    least: float | None = 0.0,
    axis: str = "",
    stacked: bool = False,
    empty: str = "no data",
    width: int = 12,
) -> Panel:
    """Lines over time.

    Args:
        queries: By the name of their series.
        limit: An alert's, drawn as a line.
        line_at: Or: the value of a line.
        least: Where the axis begins at the latest; None: at the least value.
        axis: What is counted, if the unit does not say it.
        empty: Shown without data.
    """
    panel = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(30 if stacked else 0)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            common_builders.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
        .no_value(empty)
        .height(8)
    )
    if least is not None:
        panel = panel.axis_soft_min(least)
    if axis:
        panel = panel.axis_label(axis)
    if stacked:
        panel = panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    for n, (legend, query) in enumerate(queries.items()):
        panel = panel.with_target(_target(query, chr(ord("A") + n), legend).range())
    panel = _described(panel, title, description, width, unit, limit, {} if line_at is None else {line_at: "text"})
    if limit is not None or line_at is not None:
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds_style(style)
    return panel


share, duration = (partial(stat, unit=unit) for unit in (units.PercentUnit, units.Seconds))
shares, durations = (partial(lines, unit=unit) for unit in (units.PercentUnit, units.Seconds))


def states(title: str, description: str, query: str, texts: Texts, *, legend: str, empty: str) -> Panel:
    """The state of each series over time."""
    panel = (
        statetimeline.Panel()
        .show_value(common.VisibilityMode.NEVER)
        .merge_values(True)
        .mappings([_words(texts)])
        .no_value(empty)
        .with_target(_target(query, "A", legend).range())
        .height(8)
    )
    return _described(panel, title, description, 12, units.Short, None, {})


def rows(
    title: str,
    description: str,
    by: Sequence[str],
    columns: Sequence[Column],
    *,
    links: Mapping[str, tuple[str, str]] | None = None,
    words: Mapping[str, Texts] | None = None,
    empty: str = "none",
    width: int = 12,
) -> Panel:
    """A table: a row for each set of labels, and a column for each query.

    Args:
        by: The labels, which are the first columns.
        columns: Their queries give those labels, and no others.
        links: Label -> text and address of a link on it.
        words: Label -> the words shown in place of its values.
        empty: Shown without a row.
    """
    panel = table.Panel().no_value(empty).height(8)
    names = [f"Value #{chr(ord('A') + n)}" for n in range(len(columns))] if len(columns) > 1 else ["Value"]
    for n, column in enumerate(columns):
        panel = panel.with_target(_target(column.expr, chr(ord("A") + n)).instant().format(PromQueryFormat.TABLE))
    panel = _described(panel, title, description, width, units.Short, None, {})
    shown = {name: column.title for name, column in zip(names, columns, strict=True) if column.title}
    hidden = [name for name in names if name not in shown]
    panel = panel.transformations(
        [
            models.DataTransformerConfig(id_val="merge", options={}),
            models.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": dict.fromkeys(["Time", *hidden], True),
                    "indexByName": {name: n for n, name in enumerate([*by, *shown])},
                    "renameByName": shown,
                },
            ),
        ]
    )
    for column in columns:
        panel = panel.override_by_name(column.title, _cell(column)) if column.title else panel
    for label, (text, url) in (links or {}).items():
        link = {"title": text, "url": url, "targetBlank": True}
        panel = panel.override_by_name(label, [models.DynamicConfigValue(id_val="links", value=[link])])
    for label, texts in (words or {}).items():
        panel = panel.override_by_name(label, _worded(texts))
    return panel


def _cell(column: Column) -> list[models.DynamicConfigValue]:
    value = models.DynamicConfigValue
    cell = [value(id_val="unit", value=column.unit)]
    if column.decimals is not None:
        cell.append(value(id_val="decimals", value=column.decimals))
    if column.limit is not None:
        cell.append(value(id_val="thresholds", value=_steps(column.limit, None).build().to_json()))
        cell.append(value(id_val="custom.cellOptions", value={"type": "color-text"}))
    if column.texts is not None:
        return [*cell, *_worded(column.texts)]
    return [*cell, value(id_val="mappings", value=[_no_number("").to_json()])]


def _worded(texts: Texts) -> list[models.DynamicConfigValue]:
    return [
        models.DynamicConfigValue(id_val="mappings", value=[_words(texts).to_json()]),
        models.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
    ]


def _target(query: str, name: str, legend: str = "") -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(promql(query)).legend_format(legend).ref_id(name)


def _described(
    panel: _P,
    title: str,
    description: str,
    width: int,
    unit: str,
    limit: Limit | None,
    bad: Mapping[float, str] | None,
) -> _P:
    panel = panel.title(title).description(description).datasource(SOURCE).span(width).unit(unit)
    panel = panel.thresholds(_steps(limit, bad))
    if limit is not None:
        link = builders.DashboardLink(limit.alert).type(models.DashboardLinkType.LINK).url(runbook(limit.alert))
        panel = panel.links([link.target_blank(True)])
    return panel


def _steps(limit: Limit | None, bad: Mapping[float, str] | None) -> builders.ThresholdsConfig:
    """Colors by value: green, and from a limit on (or up to it) the color of the alert."""
    steps = [models.Threshold(value=None, color="green" if limit or bad else "text")]
    if limit is not None and limit.above:
        steps = [*steps, models.Threshold(value=limit.value, color=limit.color)]
    elif limit is not None:
        steps = [models.Threshold(value=None, color=limit.color), models.Threshold(value=limit.value, color="green")]
    for value, color in (bad or {}).items():
        steps.append(models.Threshold(value=value, color=color))
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _no_number(text: str) -> models.SpecialValueMap:
    said = models.ValueMappingResult(text=text, color="text", index=9)
    options = models.DashboardSpecialValueMapOptions(match=models.SpecialValueMatch.NULL_AND_NAN, result=said)
    return models.SpecialValueMap(options)


def _words(texts: Texts) -> Any:
    results = {
        value: models.ValueMappingResult(text=text, color=color, index=n)
        for n, (value, (text, color)) in enumerate(texts.items())
    }
    return models.ValueMap(options=results)
