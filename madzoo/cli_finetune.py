"""``madzoo finetune``: a user's pictures or table, and the options of either."""

from pathlib import Path
from typing import Annotated

import typer

from madzoo.cli_parts import DataDir, Model

__all__ = ["finetune"]


def finetune(
    name: Model,
    data: Annotated[
        str, typer.Option(help="A folder with a folder per class, Parquet, or an image set of the catalog.")
    ],
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder to write; else inside the run folder.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Holds the resumable state and the log.")] = None,
    tag: Annotated[str | None, typer.Option(help="Of the new weights; default: made from the data's name.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training part; default: 5.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate, of the head; default: 0.001.")] = None,
    layer_decay: Annotated[float | None, typer.Option(help="Rate of a layer over the next; default: 0.75.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step; default: 64, or all there are.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Beta parameter; 0: off; default: 0.2.")] = None,
    flip: Annotated[bool, typer.Option(help="Mirror half of the pictures.")] = True,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16 (autocast); default: fp32.")] = None,
    val_fraction: Annotated[float | None, typer.Option(help="To validate on, where no part is; default: 0.1.")] = None,
    img_size: Annotated[int | None, typer.Option(help="Side of the pictures; default: the model's.")] = None,
    in_chans: Annotated[int | None, typer.Option(help="1 or 3 colour channels; default: the model's.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Of Parquet; default: the one with pictures.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of Parquet; default: label.")] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Start from random weights.")] = False,
    seed: Annotated[int, typer.Option(help="Of the new head, order, augmentation and the validation part.")] = 0,
    data_dir: DataDir = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop at a resumable point after so long.")] = None,
) -> None:
    """Fine-tune an image model on labelled pictures, or go on where the last run stopped."""
    from madzoo.workflows.finetune import finetune_to_folder

    named = {"epochs": epochs, "lr": lr, "layer_decay": layer_decay, "batch_size": batch_size, "mixup": mixup}
    choices = {key: value for key, value in {**named, "precision": precision}.items() if value is not None}
    result = finetune_to_folder(
        name, data, out=out, run_dir=run_dir, tag=tag, pretrained=not from_scratch, img_size=img_size,
        in_chans=in_chans, val_fraction=val_fraction, image_column=image_column, label_column=label_column,
        data_dir=data_dir, max_minutes=max_minutes, flip=flip, seed=seed, **choices,
    )  # fmt: skip
    typer.echo(str(result))
