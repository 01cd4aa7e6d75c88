"""The pages of a leaderboard: templates filled in, scripts inline, and a policy that lets nothing else run or load."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from madzoo.workflows.leaderboard_benchmarks import IMAGES, SERIES
from madzoo.workflows.leaderboard_board import Board, Group
from madzoo.workflows.leaderboard_chart import AXES, plot_points, plot_spec, series_of
from madzoo.workflows.leaderboard_libraries import data_tables, jinja2, vega_embed
from madzoo.workflows.leaderboard_lines import Line, Weights
from madzoo.workflows.leaderboard_table import tags_of, task_columns, task_rows
from madzoo.workflows.leaderboard_text import METRICS, cost, dimension, interval, label, millions, score

__all__ = ["Site", "index_html", "model_html"]

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "leaderboard"
TITLES = {IMAGES: "Image classification", SERIES: "Time series forecasting"}
ANCHORS = {IMAGES: "images", SERIES: "forecasting"}
UNITS = {IMAGES: ", points of top-1", SERIES: ", % of the error"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Holds what every page of a site says.

    Attributes:
        board: what is shown.
        slugs: weights -> name of the model's page.
        command: what made the site.
        made_with: package -> version.
    """

    board: Board
    slugs: Mapping[Weights, str]
    command: str
    made_with: Mapping[str, str]


def index_html(site: Site) -> str:
    """Returns the page with the tables and the plots."""
    tasks = [_task(site, task) for task in (IMAGES, SERIES)]
    tasks = [task for task in tasks if task is not None]
    data = {task["anchor"]: task.pop("data") for task in tasks}
    theme, page = _asset("theme.js"), _asset("index.js")
    libraries = [_closed(vega_embed()), _closed(data_tables())]
    return _render(
        "index.html.j2",
        site=site,
        tasks=tasks,
        metrics=[(label(name), words) for name, (_, words) in METRICS.items() if _is_used(site.board, name)],
        latencies=_machines(site.board),
        data=_json(data),
        theme=theme,
        libraries=libraries,
        page=page,
        policy=_policy([theme, *libraries, page]),
    )


def model_html(site: Site, weights: Weights, *, card: str | None) -> str:
    """Returns the page of one model: what is known of it, its lines, and its card.

    Args:
        site: the site.
        weights: the model's.
        card: its card as safe HTML, None where it has none.
    """
    facts = site.board.models[weights]
    lines = [
        (group, line, len([other for other in group.lines if other.rank is not None]), tags_of(line, None, ""))
        for group in site.board.groups
        for line in group.lines
        if line.weights == weights
    ]
    theme = _asset("theme.js")
    return _render(
        "model.html.j2",
        site=site,
        facts=facts,
        lines=lines,
        card=card,
        theme=theme,
        policy=_policy([theme]),
    )


def _task(site: Site, task: str) -> dict[str, Any] | None:
    groups = [group for group in site.board.groups if group.benchmark.task == task]
    if not groups:
        return None
    rows = task_rows(site.board, groups)
    points = plot_points(site.board, task)
    series = series_of(site.board, task)
    pages = {row.id: f"models/{site.slugs[row.weights]}.html" for row in rows if row.weights}
    known = {axis: any(axis in point for point in points) for axis in AXES}
    return {
        "anchor": ANCHORS[task],
        "title": TITLES[task],
        "groups": groups,
        "columns": task_columns(groups, rows),
        "rows": rows,
        "pages": pages,
        "axes": [(axis, title, known[axis]) for axis, (title, _) in AXES.items()],
        "models": len({row.weights for row in rows if row.weights}),
        "data": {
            "points": [point | {"page": pages.get(point["line"])} for point in points],
            "relative": task == SERIES,
            "specs": {
                axis: plot_spec(axis, series=series, unit=UNITS[task] if axis == "int4" else "")
                for axis in AXES
                if known[axis]
            },
            "benchmarks": {group.benchmark.id: _described(group) for group in groups},
        },
    }


def _described(group: Group) -> dict[str, Any]:
    benchmark = group.benchmark
    return {
        "title": benchmark.title,
        "label": label(benchmark.metric),
        "metrics": list(benchmark.metrics),
        "better": "higher" if benchmark.higher_is_better else "lower",
    }


def _is_used(board: Board, name: str) -> bool:
    return any(name in group.benchmark.metrics for group in board.groups)


def _machines(board: Board) -> list[str]:
    """Where latencies were measured, each machine once."""
    found = [facts.latency for facts in board.models.values() if facts.latency]
    told = [
        f"{one.machine}; torch {one.versions.get('torch', 'unknown')}, median of {one.rounds} calls" for one in found
    ]
    return list(dict.fromkeys(told))


def _value(line: Line, group: Group) -> str:
    return score(group.benchmark.metric, line.metrics.get(group.benchmark.metric))


def _best_baseline(group: Group) -> str:
    """A place among few models says little: what the best baseline has on the same samples stands beside it."""
    found = [line for line in group.lines if line.kind == "baseline" and group.benchmark.metric in line.metrics]
    return f"{found[0].name}: {_value(found[0], group)}" if found else ""


@cache
def _environment() -> Any:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"label": label, "cost": cost, "millions": millions}
    environment.globals |= {
        "interval": interval,
        "dimension": dimension,
        "value": _value,
        "best_baseline": _best_baseline,
    }
    environment.globals |= {"css": _asset("page.css")}
    return environment


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _json(values: Any) -> str:
    """JSON inside a script element: no tag can begin in it."""
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _closed(script: str) -> str:
    """A library's text, in which nothing looks like the end of its element, or like a comment around it."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Sequence[str]) -> str:
    """The Content-Security-Policy: these scripts by their hashes, inline styles, pictures beside the page, no more."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src 'self' file: data:"
