"""The scatter plot: one Vega specification for each task and axis, drawn by Altair and compiled when the page is made.

The page hands the points in, so that plot and table always show the same lines. Colours are CSS variables: the page's
colour scheme is the plot's, also when it changes.
"""

from collections.abc import Sequence
from typing import Any

from madzoo.workflows.leaderboard_board import Board
from madzoo.workflows.leaderboard_facts import ModelFacts, family_of
from madzoo.workflows.leaderboard_libraries import altair, vl_convert
from madzoo.workflows.leaderboard_lines import Line
from madzoo.workflows.leaderboard_text import cost, dimension, interval, label, score

__all__ = ["AXES", "axis_values", "plot_points", "plot_spec", "series_of"]

# Key of a point -> title of the axis, and whether it is logarithmic.
AXES: dict[str, tuple[str, bool]] = {
    "params": ("Parameters", True),
    "latency": ("CPU latency, ms", True),
    "dimension": ("Local dimension, measured", True),
    "int4": ("Cost of 4 bits", False),
}
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
COLOURS = tuple(f"var(--series-{number})" for number in range(1, len(SHAPES) + 1))
HEIGHT = 250
SOLID, HOLLOW = 0.85, 0.0  # how a point is filled; hollow: the model saw the tested data
FONT = '-apple-system, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", "Liberation Sans", Arial, sans-serif'


def series_of(board: Board, task: str) -> list[str]:
    """Returns the names in the legend: families of forecasters, data sets of image models, in a fixed order."""
    names = (
        _series(line, group.benchmark.title, task)
        for group in board.groups
        if group.benchmark.task == task
        for line in group.lines
        if line.weights is not None
    )
    return list(dict.fromkeys(names))


def plot_points(board: Board, task: str) -> list[dict[str, Any]]:
    """Returns a point for every line with a main metric: models with their costs, the others as levels.

    ``x`` values that are not known are left out, and so are logarithms of 0.
    """
    points = []
    for group in (group for group in board.groups if group.benchmark.task == task):
        metric = group.benchmark.metric
        for position, line in enumerate(group.lines):
            if metric not in line.metrics:
                continue
            scale = 100.0 if task.startswith("image") else 1.0
            low, high = line.intervals.get(metric, (line.metrics[metric],) * 2)
            facts = board.models[line.weights] if line.weights else None
            points.append(
                {
                    "line": f"{group.benchmark.id}/{position}",
                    "benchmark": group.benchmark.id,
                    "kind": line.kind,
                    "name": line.name,
                    "series": _series(line, group.benchmark.title, task) if facts else None,
                    "y": scale * line.metrics[metric],
                    "low": scale * low,
                    "high": scale * high,
                    "relative": line.relative,
                    "solid": HOLLOW if line.leaked else SOLID,
                    "tip": _tip(line, group.benchmark.title, metric, facts),
                    **(axis_values(facts) if facts else {}),
                }
            )
    return points


def axis_values(facts: ModelFacts) -> dict[str, float]:
    """Returns what is known of a model on each axis."""
    drop = facts.drops.get(4)
    found = {
        "params": facts.num_params,
        "latency": facts.latency.milliseconds if facts.latency else None,
        "dimension": facts.rank,
        "int4": drop.value if drop else None,
    }
    return {key: float(value) for key, value in found.items() if value is not None and (value > 0 or not AXES[key][1])}


def plot_spec(axis: str, *, series: Sequence[str], unit: str) -> dict[str, Any]:
    """Returns the compiled Vega specification, whose data sets ``points`` and ``levels`` are empty.

    Args:
        axis: a key of :data:`AXES`.
        series: names of the legend, in order.
        unit: of the axis, behind its title; may be empty.
    """
    title, is_log = AXES[axis]
    x = altair.X("x:Q", title=f"{title}{unit}", axis=altair.Axis(tickCount=6, format="~s" if is_log else "~g"))
    x = x.scale(type="log", nice=False, padding=36) if is_log else x.scale(zero=False, nice=True, padding=20)
    y = altair.Y(
        "y:Q", title=None, scale=altair.Scale(zero=False, nice=True, padding=14), axis=altair.Axis(tickCount=6)
    )
    points, levels = altair.NamedData(name="points"), altair.NamedData(name="levels")
    kinds = [(n, COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)]) for i, n in enumerate(series)]
    legend = altair.Legend(
        title=None, orient="top", columns=6, columnPadding=22, symbolStrokeWidth=0, symbolOpacity=1, labelLimit=260
    )
    domain = [name for name, _, _ in kinds]
    colour = altair.Color("series:N", legend=legend).scale(domain=domain, range=[c for _, c, _ in kinds])
    shape = altair.Shape("series:N", legend=legend).scale(domain=domain, range=[s for _, _, s in kinds])
    level = altair.Chart(levels, name="level").mark_rule(strokeDash=[5, 4], stroke="var(--faint)").encode(y=y)
    named = (
        altair.Chart(levels, name="level-name")
        .mark_text(align="right", baseline="bottom", dx=-2, dy=-2, fill="var(--muted)", fontSize=11)
        .encode(y=y, x=altair.value("width"), text="name:N")
    )
    whisker = altair.Chart(points, name="interval").mark_rule(strokeWidth=1.5, opacity=0.55)
    whisker = whisker.encode(x=x, y=altair.Y("low:Q", title=None), y2="high:Q", color=colour, tooltip="name:N")
    dots = altair.Chart(points, name="dots").mark_point(size=120, filled=True, opacity=1, strokeWidth=1.5)
    edge = altair.Stroke("series:N", legend=None).scale(domain=domain, range=[c for _, c, _ in kinds])
    solid = altair.FillOpacity("solid:Q", legend=None, scale=None)
    told = {"description": "name:N", "tooltip": "name:N"}
    dots = dots.encode(x=x, y=y, color=colour, stroke=edge, fillOpacity=solid, shape=shape, **told)
    chart = altair.layer(level, named, whisker, dots, width="container", height=HEIGHT).configure(**_config())
    return _silent(vl_convert.vegalite_to_vega(chart.to_dict(validate=True), vl_version=_version()))


def _series(line: Line, title: str, task: str) -> str:
    return title if task.startswith("image") else family_of(line.name)


def _tip(line: Line, title: str, metric: str, facts: ModelFacts | None) -> list[list[str]]:
    """What hovering shows, line by line; the page writes it as text."""
    between = interval(metric, line.intervals.get(metric))
    told = [["", title], *([["", "saw the tested data"]] if line.leaked else [])]
    told += [[label(metric), score(metric, line.metrics[metric]) + (f"  ({between})" if between else "")]]
    if facts is None:
        return told
    if facts.num_params is not None:
        told.append(["parameters", f"{facts.num_params:,}"])
    if facts.latency is not None:
        told.append(["CPU latency", f"{facts.latency.milliseconds:.3g} ms"])
    if facts.rank is not None:
        told.append(["local dimension", dimension(facts)])
    if 4 in facts.drops:
        told.append(["cost of 4 bits", cost(facts.drops[4])])
    return told


def _config() -> dict[str, Any]:
    text = {"labelColor": "var(--muted)", "titleColor": "var(--ink)", "labelFontSize": 12, "titleFontSize": 12}
    axis = {"gridColor": "var(--line)", "domainColor": "var(--faint)", "tickColor": "var(--faint)", **text}
    return {
        "background": "transparent",
        "font": FONT,
        "view": altair.ViewConfig(stroke=None),
        "axis": altair.AxisConfig(titleFontWeight=600, titlePadding=10, labelPadding=6, **axis),
        "legend": altair.LegendConfig(labelColor="var(--ink)", labelFontSize=12, symbolSize=90),
    }


def _version() -> str:
    """The version of Vega-Lite that Altair writes, as vl-convert names it."""
    major, minor = altair.SCHEMA_VERSION.lstrip("v").split(".")[:2]
    known = vl_convert.get_vegalite_versions()
    return f"{major}.{minor}" if f"{major}.{minor}" in known else known[-1]


def _silent(spec: dict[str, Any]) -> dict[str, Any]:
    """Drops what names the schema's address: the page fetches nothing and names no other host."""
    return {key: value for key, value in spec.items() if key != "$schema"}
