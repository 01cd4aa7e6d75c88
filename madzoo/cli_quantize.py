"""``madzoo quantize``: a model to few bits, after training or while training, as a packed checkpoint folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from madzoo.cli_parts import DataDir, Model, print_
from madzoo.tables import quantize_table

__all__ = ["quantize"]

TRAINING = "With --qat"


def _of(words: str, *names: str) -> Any:
    return typer.Option(*names, help=words, rich_help_panel=TRAINING)


def quantize(
    name: Model,
    bits: Annotated[int, typer.Option(help="Of matrices, 2 to 8; 2 is ternary; vectors and the recurrence get 8.")],
    policy: Annotated[str | None, typer.Option(help="gauge, rtn, bias_corrected or mixed; default: gauge.")] = None,
    qat: Annotated[bool, typer.Option("--qat", help="Train the weights on their levels.")] = False,
    group_size: Annotated[int | None, typer.Option(help="Elements of a row that share a scale; default: all.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A name of the catalog; default: what it was trained on.")] = None,
    seed: Annotated[int, typer.Option(help="Of calibration, order and augmentation.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint folder to write; default: runs/<arch>.<tag>-int<bits>. Of an older run's weights there, "
            "which are replaced, the reports go too; reports about the very same weights stay."
        ),
    ] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Meet the test part once; record the rows.")] = False,
    data_dir: DataDir = None,
    estimator: Annotated[str, _of("lsq, ste, clipped_ste or prox_quant.")] = "lsq",
    epochs: Annotated[int | None, _of("Passes over the training part; default: 1.")] = None,
    steps: Annotated[int | None, _of("Optimizer steps in place of whole passes.")] = None,
    lr: Annotated[float | None, _of("Highest learning rate; default: 0.0003.")] = None,
    batch_size: Annotated[int | None, _of("Samples a step; default: 64 pictures or channels.")] = None,
    run_dir: Annotated[Path | None, _of("Holds the resumable state and the log.")] = None,
    max_minutes: Annotated[float | None, _of("Stop at a resumable point after so long.")] = None,
) -> None:
    """Quantize the weights of a model and write them, packed, as a checkpoint folder."""
    from madzoo.workflows.quantize import quantize

    found = quantize(
        name, bits=bits, policy=policy, qat=qat, group_size=group_size, dataset=dataset, seed=seed, out=out,
        evaluate=evaluate, data_dir=data_dir, estimator=estimator, epochs=epochs, steps=steps, lr=lr,
        batch_size=batch_size, run_dir=run_dir, max_minutes=max_minutes,
    )  # fmt: skip
    if found.folder is not None:
        print_(quantize_table(found))
    if found.dropped:
        typer.echo(f"removed, for they were about the weights replaced: {', '.join(found.dropped)}", err=True)
    typer.echo(str(found))
