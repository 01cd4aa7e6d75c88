"""The command line: one command = one workflow call and one rendering.

A :class:`MadzooError` or an unusable file becomes one line on standard error and exit code 2.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from madzoo import __version__
from madzoo.cli_evaluate import evaluate
from madzoo.cli_finetune import finetune
from madzoo.cli_forecast import forecast
from madzoo.cli_hub import pull, push, search
from madzoo.cli_leaderboard import leaderboard
from madzoo.cli_parts import DataDir, Model, print_
from madzoo.cli_quantize import quantize
from madzoo.errors import MadzooError
from madzoo.tables import bench_table, card_table, forecast_table, geometry_table, prediction_table

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A zoo of state-space models for images and time series.",
)

Dataset = Annotated[str | None, typer.Option(help="A name of the data catalog; default: what it was trained on.")]


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
def info(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="arch.tag, as in every command.")] = None,
    system: Annotated[bool, typer.Option("--system", help="Describe this machine and what serves the scans.")] = False,
) -> None:
    """Print what a name stands for, or what this machine offers, as JSON."""
    if (name is None) != system:
        raise typer.BadParameter("give either a NAME or --system.")
    if system:
        from madzoo.workflows.system import system_record

        record = system_record()
    else:
        from madzoo.factory import model_info

        record = model_info(str(name))
    typer.echo(json.dumps(record.to_dict(), indent=2, ensure_ascii=False))


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures: PNG, JPEG, WebP, ...")],
    model: Annotated[str, typer.Option(help="Name of an image classifier.")] = "weft_micro_patch4_32.cifar10",
    top: Annotated[int, typer.Option(help="How many classes to print.")] = 5,
) -> None:
    """Name the likeliest classes of pictures, with probabilities."""
    from madzoo.workflows.classify import classify

    print_(prediction_table(classify(model, images, top=top), title=model))


app.command()(forecast)


app.command()(evaluate)


@app.command()
def geometry(
    name: Model,
    dataset: Dataset = None,
    split: Annotated[str | None, typer.Option(help="Part of the data set; default: validation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the sample.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Replace the folder's geometry.json and its card.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Measure the geometry of a checkpoint: symmetries, local dimension, flatness."""
    from madzoo.workflows.report import geometry

    found = geometry(name, dataset=dataset, split=split, seed=seed, data_dir=data_dir, write=write)
    print_(geometry_table(found, title=name))


@app.command()
def card(
    name: Model,
    check: Annotated[bool, typer.Option("--check", help="Compare hashes and rendering; write nothing.")] = False,
    recompute: Annotated[bool, typer.Option("--recompute", help="Measure again; with --check, compare.")] = False,
    dataset: Dataset = None,
    split: Annotated[str | None, typer.Option(help="Part of the data set; default: validation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the sample.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Bring a checkpoint folder's reports up to date and write its card."""
    from madzoo.workflows.report import check as check_folder
    from madzoo.workflows.report import report

    if check:
        folder = check_folder(name, recompute=recompute, data_dir=data_dir)
        typer.echo(f"{folder}: the card agrees with the folder")
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
    reports: Annotated[bool, typer.Option(help="Measure geometry and quantization at the end; write the card.")] = True,
) -> None:
    """Train what a recipe says, or go on where the last run stopped."""
    from madzoo.workflows.train import train

    result = train(
        recipe, out=out, run_dir=run_dir, data_dir=data_dir, max_minutes=max_minutes, seed=seed,
        reports=reports,
    )  # fmt: skip
    typer.echo(str(result))


app.command()(finetune)
app.command()(quantize)
app.command()(push)
app.command()(pull)
app.command()(search)
app.command()(leaderboard)


@app.command()
def bench(
    name: Model,
    vs: Annotated[str | None, typer.Option(help="Another model, timed in turns with the first, as it comes.")] = None,
    batch: Annotated[int, typer.Option(help="Images, or rows of series, at a time.")] = 1,
    backend: Annotated[str, typer.Option(help="Of every selective scan: auto, cpu, torch, reference, ...")] = "auto",
    kernels: Annotated[bool, typer.Option(help="Without: run as on a machine without compiled kernels.")] = True,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    optimize: Annotated[bool, typer.Option("--optimize", help="Run madzoo.optimize_for_cpu first.")] = False,
    train: Annotated[bool, typer.Option("--train", help="Time a training step in place of inference.")] = False,
    threads: Annotated[int | None, typer.Option(help="Of torch; default: as many as it takes.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Calls that count; default: what fits into ten seconds.")] = None,
    memory: Annotated[bool, typer.Option(help="Also measure peak memory, in fresh processes.")] = True,
) -> None:
    """Measure how fast a model is on this machine, alone or beside another."""
    from madzoo.workflows.bench import bench

    found = bench(
        name, vs=vs, batch=batch, backend=backend, kernels=kernels, dtype=dtype, optimize=optimize, train=train,
        threads=threads, rounds=rounds, memory=memory,
    )  # fmt: skip
    print_(bench_table(found))


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the forecast's CSV and PNG.")] = Path()) -> None:
    """Show what the bundled models do: five pictures, one forecast, and the numbers of their cards."""
    from madzoo.workflows.demo import demo

    found = demo(out)
    print_(
        prediction_table(found.predictions, title="Five test images of Fashion-MNIST", truths=found.truths),
        forecast_table(found.forecast, title="Weekly CO2 at Mauna Loa in ppm, forecast zero-shot"),
        card_table(found.cards),
    )
    typer.echo(f"{found.csv}\n{found.png}")
