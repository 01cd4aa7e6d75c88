"""``madzoo finetune``: a user's pictures or table, and the options of either."""

from pathlib import Path
from typing import Annotated, Any

import typer

from madzoo.cli_parts import DataDir, Model

__all__ = ["finetune"]

IMAGES, SERIES = "Image models", "Forecasters"


def _of(panel: str, words: str, *names: str) -> Any:
    return typer.Option(*names, help=words, rich_help_panel=panel)


def finetune(
    name: Model,
    data: Annotated[
        str, typer.Option(help="Pictures: a folder with one per class, Parquet, a catalog name. Series: CSV, Parquet.")
    ],
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder to write; else inside the run folder.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Holds the resumable state and the log.")] = None,
    tag: Annotated[str | None, typer.Option(help="Of the new weights; default: made from the data's name.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; default: 0.001.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="A step; default: 64 pictures, 32 windows.")] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="To validate on; default: 0.1 of pictures, the last 0.2 of every series.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of a new head, order, augmentation and the validation part.")] = 0,
    max_minutes: Annotated[float | None, typer.Option(help="Stop at a resumable point after so long.")] = None,
    epochs: Annotated[int | None, _of(IMAGES, "Passes over the training part; default: 5.")] = None,
    layer_decay: Annotated[float | None, _of(IMAGES, "Rate of a layer over the next; default: 0.75.")] = None,
    mixup: Annotated[float | None, _of(IMAGES, "Beta parameter; 0: off; default: 0.2.")] = None,
    flip: Annotated[bool | None, _of(IMAGES, "Mirror half of the pictures; default: yes.", "--flip/--no-flip")] = None,
    precision: Annotated[str | None, _of(IMAGES, "fp32 or bf16 (autocast); default: fp32.")] = None,
    img_size: Annotated[int | None, _of(IMAGES, "Side of the pictures; default: the model's.")] = None,
    in_chans: Annotated[int | None, _of(IMAGES, "1 or 3 colour channels; default: the model's.")] = None,
    image_column: Annotated[str | None, _of(IMAGES, "Of Parquet; default: the one with pictures.")] = None,
    label_column: Annotated[str | None, _of(IMAGES, "Of Parquet; default: label.")] = None,
    from_scratch: Annotated[bool, _of(IMAGES, "Start from random weights.", "--from-scratch")] = False,
    data_dir: DataDir = None,
    steps: Annotated[int | None, _of(SERIES, "Optimizer steps; default: 200.")] = None,
    mode: Annotated[str | None, _of(SERIES, "full, or head to train only what reads out the forecast.")] = None,
    loss: Annotated[str | None, _of(SERIES, "pinball, mae or mse; default: pinball.")] = None,
    horizon: Annotated[
        int | None, _of(SERIES, "Steps; not the model's: a new head.", "--prediction-length", "--horizon")
    ] = None,
    timestamp: Annotated[str | None, _of(SERIES, "The column of time stamps; default: found.")] = None,
    id_: Annotated[str | None, _of(SERIES, "The column that names the series; default: item_id.", "--id")] = None,
    target: Annotated[list[str] | None, _of(SERIES, "A column to learn, repeatable; default: all.")] = None,
    freq: Annotated[str | None, _of(SERIES, "The step: h, D, ...; default: found in the table.")] = None,
    seasonality: Annotated[
        int | None, _of(SERIES, "Steps of a season, for models that ask; default: the usual for the step.")
    ] = None,
) -> None:
    """Fine-tune an image model on pictures or a forecaster on a table, or go on where the last run stopped."""
    from madzoo.workflows.finetune import finetune_to_folder

    asked = {
        "out": out, "run_dir": run_dir, "tag": tag, "lr": lr, "batch_size": batch_size, "val_fraction": val_fraction,
        "max_minutes": max_minutes, "epochs": epochs, "layer_decay": layer_decay, "mixup": mixup, "flip": flip,
        "precision": precision, "img_size": img_size, "in_chans": in_chans, "image_column": image_column,
        "label_column": label_column, "pretrained": False if from_scratch else None, "data_dir": data_dir,
        "steps": steps, "mode": mode, "loss": loss, "prediction_length": horizon, "timestamp_column": timestamp,
        "id_column": id_, "target": target or None, "seasonality": seasonality,
        "freq": int(freq) if freq is not None and freq.isdecimal() else freq,
    }  # fmt: skip
    given = {option: value for option, value in asked.items() if value is not None}
    typer.echo(str(finetune_to_folder(name, data, seed=seed, **given)))
