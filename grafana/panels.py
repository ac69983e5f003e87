"""The kinds of panel that the dashboards are made of.

Each has a description: what it shows, what is normal, and what to do where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    timeseries,
)
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Query: TypeAlias = tuple[str, str]  # PromQL, and what its series are called in the legend

SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
HEIGHT = 8
WIDTH = 8  # of 24: three panels to a row
STATS = 6  # to a row


def _target(query: Query) -> prometheus.Dataquery:
    expression, legend = query
    return prometheus.Dataquery().expr(expression).legend_format(legend).range()


def lines(
    title: str, description: str, unit: str, *queries: Query, stacked: bool = False
) -> timeseries.Panel:
    """Values over time; stacked where they are parts of a whole."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .height(HEIGHT)
        .span(WIDTH)
        .draw_style(GraphDrawStyle.LINE)
        .fill_opacity(40 if stacked else 5)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for ref, query in zip("ABCDEFGH", queries, strict=False):
        panel.with_target(_target(query).ref_id(ref))
    return panel


def heat(title: str, description: str, unit: str, metric: str, labels: str) -> heatmap.Panel:
    """A histogram over time: how many observations fell into each bucket."""
    expression = f"sum by (le) (increase({metric}_bucket{{{labels}}}[$__rate_interval]))"
    query = _target((expression, "{{le}}")).format(PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(HEIGHT)
        .span(WIDTH)
        .calculate(False)
        .cell_gap(1)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges"))
        .y_axis(
            heatmap.YAxisConfig()
            .unit(unit)
            .scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LINEAR))
        )
        .with_target(query)
    )


def number(
    title: str, description: str, unit: str, query: Query, steps: Sequence[tuple[float, str]] = ()
) -> stat.Panel:
    """The newest value, large. From each of `steps` upwards it has that colour; green below."""
    colours = [
        Threshold(value=None, color="green"),
        *(Threshold(value=v, color=c) for v, c in steps),
    ]
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .height(4)
        .span(24 // STATS)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(colours))
        .with_target(_target(query))
    )


def variable(name: str, label: str, values: str, *, several: bool) -> dashboard.QueryVariable:
    """A choice among the values that a PromQL label query finds."""
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .query(values)
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(several)
        .include_all(several)
    )
    return made.all_value(".*") if several else made


def page(uid: str, title: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard with the choice of a data source."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["sluiced"])
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        .link(
            dashboard.DashboardLink("sluiced dashboards")
            .type("dashboards")
            .tags(["sluiced"])
            .include_vars(True)
            .keep_time(True)
        )
    )
