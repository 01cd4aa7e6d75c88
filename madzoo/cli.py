"""The command line: one command = one workflow call and one rendering.

A :class:`MadzooError` or an unusable file becomes one line on standard error and exit code 2.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from madzoo import __version__
from madzoo.errors import MadzooError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A zoo of state-space models for images and time series.",
)

DataDir = Annotated[Path | None, typer.Option(help="Folder of Parquet data sets; else MADZOO_DATA_DIR, else the Hub.")]
Dataset = Annotated[str | None, typer.Option(help="A name of the data catalog; default: what it was trained on.")]
Model = Annotated[str, typer.Argument(metavar="NAME", help="arch.tag, hf-hub:org/repo, local-dir:path or timm/name.")]


def main() -> None:
    """Runs the command line."""
    try:
        app()
    except (MadzooError, OSError) as error:
        typer.echo(f"madzoo: {_one_line(error)}", err=True)
        sys.exit(2)


def _one_line(error: Exception) -> str:
    why, *answers = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return f"{why} ({'; '.join(answers)})" if answers else why


@app.callback(invoke_without_command=True)
def prepare(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """Sets up what every command shares: log lines of this package on standard error."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("madzoo")
    logger.handlers, logger.level = [handler], logging.INFO


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, for instance 'vim*'.")] = "*",
    task: Annotated[str | None, typer.Option(help="image-classification or time-series-forecasting.")] = None,
    pretrained: Annotated[bool, typer.Option(help="Show arch.tag, the names that have weights.")] = False,
) -> None:
    """List the models, one name a line."""
    from madzoo.factory import list_models

    for name in list_models(pattern, task=task, pretrained=pretrained or None):
        typer.echo(name)


@app.command()
def info(name: Model) -> None:
    """Print what a name stands for, as JSON."""
    from madzoo.factory import model_info

    typer.echo(json.dumps(model_info(name).to_dict(), indent=2, ensure_ascii=False))


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures: PNG, JPEG, WebP, ...")],
    model: Annotated[str, typer.Option(help="Name of an image classifier.")] = "weft_micro_patch4_32.cifar10",
    top: Annotated[int, typer.Option(help="How many classes to print.")] = 5,
) -> None:
    """Name the likeliest classes of pictures, with probabilities."""
    from madzoo.workflows.classify import classify

    table = _table(model, "image", "class", ">probability")
    for found in classify(model, images, top=top):
        for row, (label, probability) in enumerate(zip(found.classes, found.probabilities, strict=True)):
            table.add_row(found.image if row == 0 else "", label, f"{probability:.1%}")
        table.add_section()
    _print(table)


@app.command()
def geometry(
    name: Model,
    dataset: Dataset = None,
    split: Annotated[str | None, typer.Option(help="Part of the data set; default: validation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the sample.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Measure the local dimension of a checkpoint, without writing anything."""
    from madzoo.workflows.report import geometry

    found = geometry(name, dataset=dataset, split=split, seed=seed, data_dir=data_dir)
    measured = found.local_dimension
    table = _table(name, "what", ">value")
    table.add_row("local dimension", f"≥ {measured.rank}, row-limited" if measured.row_limited else f"{measured.rank}")
    table.add_row("parameters", f"{measured.num_params}")
    table.add_row("rows", f"{measured.rows}")
    table.add_row("last singular value counted", _number(measured.sigma_r))
    table.add_row("first one not counted", _number(measured.sigma_next))
    table.add_row("gap, in decades", _number(measured.gap_decades))
    table.add_row("output", f"{measured.output}, {measured.dtype}")
    table.add_row("sample", f"{found.n} of {found.dataset} {found.split}, seed {found.seed}")
    _print(table)


@app.command()
def card(
    name: Model,
    check: Annotated[bool, typer.Option("--check", help="Only compare hashes and rendering, offline.")] = False,
    recompute: Annotated[bool, typer.Option("--recompute", help="Measure everything again.")] = False,
    dataset: Dataset = None,
    split: Annotated[str | None, typer.Option(help="Part of the data set; default: validation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the sample.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Bring a checkpoint folder's reports up to date and write its card."""
    from madzoo.workflows.report import check as check_folder
    from madzoo.workflows.report import report

    if check:
        typer.echo(f"{check_folder(name)}: the card agrees with the folder")
    else:
        typer.echo(report(name, dataset=dataset, split=split, seed=seed, data_dir=data_dir, recompute=recompute))


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, for instance from scripts/recipes.")],
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder to write; else inside the run folder.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Holds the resumable state and the log.")] = None,
    data_dir: DataDir = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop at a resumable point after so long.")] = None,
    seed: Annotated[int | None, typer.Option(help="Replaces the recipe's seed.")] = None,
) -> None:
    """Train what a recipe says, or go on where the last run stopped."""
    from madzoo.workflows.train import train

    result = train(recipe, out=out, run_dir=run_dir, data_dir=data_dir, max_minutes=max_minutes, seed=seed)
    typer.echo(str(result))


def _table(title: str, *columns: str) -> Table:
    """Makes a table; a column named with ">" is aligned to the right."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _print(renderable: Any) -> None:
    Console().print(renderable)
