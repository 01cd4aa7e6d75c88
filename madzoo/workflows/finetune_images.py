"""Fine-tuning of an image model: labelled pictures in, a checkpoint folder out."""

import copy
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.data.image_files import PictureFormat
from madzoo.data.images import Augmentation, ImageArrays, ImageSteps, image_batches
from madzoo.errors import ConfigError
from madzoo.factory import create_model, model_info
from madzoo.registry import PretrainedCfg
from madzoo.training.loop import TrainingResult, make_accelerator, train
from madzoo.training.losses import cross_entropy
from madzoo.training.recipe import Recipe
from madzoo.training.validation import score_classifier
from madzoo.workflows.finetune_data import FinetuneData, load_finetune_data
from madzoo.workflows.finetune_folder import FinetuneResult, as_name, as_tag, source_folder, write_finetuned
from madzoo.workflows.folder_place import check_place

__all__ = ["DEFAULTS", "finetune_images"]

DEFAULTS: dict[str, Any] = {
    "epochs": 5, "lr": 1e-3, "layer_decay": 0.75, "weight_decay": 0.05, "clip_norm": 1.0, "label_smoothing": 0.1,
    "mixup": 0.2, "flip": True, "select": "best", "seed": 0,
}  # fmt: skip
BATCH_SIZE, WARMUP_SHARE, CROP_SHARE, MIN_LR_SHARE = 64, 0.1, 1 / 8, 1 / 100


def finetune_images(
    model_or_name: nn.Module | str,
    data: Path | str,
    *,
    out: Path | str | None = None,
    run_dir: Path | str | None = None,
    tag: str | None = None,
    pretrained: bool = True,
    img_size: int | None = None,
    in_chans: int | None = None,
    val_fraction: float | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    data_dir: Path | str | None = None,
    max_minutes: float | None = None,
    **choices: Any,
) -> FinetuneResult:
    """Fine-tunes an image model on labelled pictures, or goes on with it; when it ends, writes a checkpoint folder.

    The head is made anew for the classes of the data; the pictures are brought to the model's size and colours. The
    weights with the best validation are kept. :data:`DEFAULTS` holds what is not said; without weights to start from,
    every layer learns at one rate.

    Args:
        model_or_name: an image model of the zoo, or the name of one, whose weights are then loaded.
        data: a folder of class folders, a Parquet file or a folder of some, or the name of an image set of the
            catalog; see :func:`madzoo.data.image_tables.read_parts`.
        out: the checkpoint folder; ``<run_dir>/checkpoint`` by default.
        run_dir: holds the resumable state and the log; ``runs/<model>-on-<data>-seed<seed>`` by default.
        tag: of the new weights; by default made from the name of the data.
        pretrained: False starts from random weights, for comparison.
        img_size, in_chans: build the named model for other pictures than it was trained on.
        val_fraction: drawn from every class for validation, where the data have no such part; 0.1 by default.
        image_column, label_column: of Parquet.
        data_dir: local data folder, for a name of the catalog.
        max_minutes: stops at a resumable point after so long.
        choices: entries of :class:`madzoo.training.recipe.Recipe`: epochs, lr, layer_decay, mixup, seed, ...

    Raises:
        ConfigError: when the model does not classify images or cannot be written, or on an ill-valued choice.
        DataError: when the pictures are missing or unreadable, or have fewer than two classes.
        CheckpointError: when the run folder holds another run.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.

    Cost: memory for every picture at the model's size, one byte a value.
    """
    if fixed := {"name", "dataset", "loss", "model_args"} & choices.keys():
        raise ConfigError(f"{', '.join(sorted(fixed))} follow from the model and the data.", asked=sorted(choices))
    defaults = DEFAULTS if pretrained else {**DEFAULTS, "layer_decay": 1.0}
    seed = choices.get("seed", DEFAULTS["seed"])
    _seed(seed)
    sizes = {name: value for name, value in {"img_size": img_size, "in_chans": in_chans}.items() if value is not None}
    model = _start(model_or_name, pretrained=pretrained, sizes=sizes)
    form = _picture_format(model)
    pictures = load_finetune_data(
        data, form, val_fraction=val_fraction, seed=seed, image_column=image_column, label_column=label_column,
        data_dir=data_dir,
    )  # fmt: skip
    model.reset_classifier(len(pictures.class_names))
    arch = model.madzoo_name.partition(".")[0]
    name = f"{arch}.{tag or as_tag(pictures.name)}"
    recipe = _recipe(name, pictures, {**defaults, **choices}, side=form.size[1])
    start = model.madzoo_name if pretrained else f"{arch}-from-scratch"
    folder = Path(run_dir or f"runs/{start}-on-{as_tag(pictures.name)}-seed{seed}")
    checkpoint, begun = Path(out) if out else folder / "checkpoint", source_folder(model_or_name)
    if out:  # before the training; what lies in the run's own folder, the run knows
        check_place(checkpoint, name=name, packed=False, source=begun, source_name=model.madzoo_name)
    cfg = _pretrained_cfg(model, pictures, form)
    result = _train(model, pictures, recipe, cfg, folder, max_minutes)
    if result.finished and make_accelerator().is_main_process:
        _write(checkpoint, model, recipe, cfg, pictures, result, start=start, begun=begun)
    found = checkpoint if result.finished else None
    return FinetuneResult(training=result, folder=found, class_names=pictures.class_names)


def _seed(seed: Any) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError("a seed is a whole number, at least 0.", asked=f"seed={seed!r}")
    torch.manual_seed(seed)


def _start(model_or_name: nn.Module | str, *, pretrained: bool, sizes: dict[str, Any]) -> Any:
    """Returns the model to train: a copy, or built by name."""
    if not isinstance(model_or_name, nn.Module):
        return _build(str(model_or_name), pretrained=pretrained, sizes=sizes)
    if sizes or not pretrained:
        raise ConfigError("a module comes with its sizes and weights.", asked=f"pretrained={pretrained}, {sizes}")
    name = getattr(model_or_name, "madzoo_name", None)
    if name is None or name.startswith("timm/"):
        raise _no_folder(name or type(model_or_name).__name__)
    _check_task(getattr(model_or_name, "task", None), name)
    return copy.deepcopy(model_or_name)


def _build(name: str, *, pretrained: bool, sizes: dict[str, Any]) -> nn.Module:
    if name.startswith("timm/"):
        raise _no_folder(name)
    name = as_name(name)
    if ":" not in name:  # where the registry knows it, before an option of images is refused by a forecaster
        _check_task(model_info(name).task, name)
    model = create_model(name, pretrained=pretrained, **sizes)
    _check_task(getattr(model, "task", None), name)
    return model


def _no_folder(name: str) -> ConfigError:
    return ConfigError(
        "only models of the zoo make checkpoint folders.",
        asked=name,
        todo="madzoo list --task image-classification; timm's models train with timm's own script",
    )


def _check_task(task: str | None, name: str) -> None:
    if task != "image-classification":
        raise ConfigError(
            "only image classifiers are fine-tuned on pictures.",
            asked=name,
            resolved=f"a model for {task}",
            todo="madzoo list --task image-classification",
        )


def _picture_format(model: Any) -> PictureFormat:
    cfg = model.pretrained_cfg
    size = (model.config.in_chans, model.config.img_size, model.config.img_size)
    return PictureFormat(
        size=size, crop_pct=cfg.get("crop_pct") or 1.0, interpolation=cfg.get("interpolation") or "bicubic"
    )


def _recipe(name: str, pictures: FinetuneData, choices: dict[str, Any], *, side: int) -> Recipe:
    # The pictures' hash keeps a run folder from going on with other pictures.
    identity = f"{pictures.name}@{pictures.train.fingerprint()[:12]}"
    values = {
        "name": name, "dataset": identity, "loss": "cross_entropy", "batch_size": min(BATCH_SIZE, len(pictures.train)),
        "crop_padding": round(CROP_SHARE * side), **choices,
    }  # fmt: skip
    recipe = Recipe.from_dict(values)
    steps = recipe.epochs * (len(pictures.train) // recipe.batch_size)
    derived = {"warmup_steps": round(WARMUP_SHARE * steps), "min_lr": MIN_LR_SHARE * recipe.lr}
    return dataclasses.replace(recipe, **{key: value for key, value in derived.items() if key not in choices})


def _train(
    model: Any, pictures: FinetuneData, recipe: Recipe, cfg: PretrainedCfg, folder: Path, max_minutes: float | None
) -> TrainingResult:
    accelerator = make_accelerator()
    if recipe.batch_size % accelerator.num_processes:
        raise ConfigError("batch_size does not divide among the processes.", asked=f"batch_size={recipe.batch_size}")
    names = ("crop_padding", "flip", "mixup", "cutmix")
    source = ImageSteps(
        pictures.train, Augmentation(**{name: getattr(recipe, name) for name in names}), **_pixels(cfg),
        batch_size=recipe.batch_size, seed=recipe.seed, rank=accelerator.process_index,
        world=accelerator.num_processes,
    )  # fmt: skip
    return train(
        model, source, partial(cross_entropy, label_smoothing=recipe.label_smoothing),
        lambda model: score_classifier(model, _batches(pictures.validation, cfg)), recipe, folder,
        max_minutes=max_minutes, accelerator=accelerator,
    )  # fmt: skip


def _pixels(cfg: PretrainedCfg) -> dict[str, Any]:
    return {"mean": cfg.mean, "std": cfg.std}


def _batches(data: ImageArrays, cfg: PretrainedCfg, *, batch_size: int = 250) -> Any:
    return image_batches(data, **_pixels(cfg), batch_size=batch_size)


def _pretrained_cfg(model: Any, pictures: FinetuneData, form: PictureFormat) -> PretrainedCfg:
    """Says how pictures are prepared for the new weights: as for the old, or by the training pixels' own moments."""
    old = model.pretrained_cfg
    mean, std = old.get("mean"), old.get("std")
    if not mean or not std:
        pixels = pictures.train.images.transpose(0, 1).flatten(1).numpy()
        mean, std = ((moment(axis=1, dtype="float64") / 255).round(4) for moment in (pixels.mean, pixels.std))
        std = std.clip(min=1e-3)  # pictures of one colour
    return PretrainedCfg(
        license=old.get("license"), dataset=pictures.name, input_size=form.size, mean=tuple(map(float, mean)),
        std=tuple(map(float, std)), interpolation=form.interpolation, crop_pct=form.crop_pct,
        class_names=pictures.class_names,
    )  # fmt: skip


def _write(
    folder: Path, model: Any, recipe: Recipe, cfg: PretrainedCfg, pictures: FinetuneData, result: TrainingResult,
    *, start: str, begun: Path | None,
) -> None:  # fmt: skip
    model.load_state_dict(dict(result.state))
    example: Tensor = next(_batches(pictures.validation, cfg, batch_size=4))[0]
    write_finetuned(
        folder, model, name=recipe.name, source=begun, cfg=cfg, example=example,
        prose=_prose(recipe, pictures, result, start), num_classes=len(pictures.class_names),
    )  # fmt: skip


def _prose(recipe: Recipe, pictures: FinetuneData, result: TrainingResult, start: str) -> str:
    top1 = f"{100 * result.metrics['top1']:.2f} %"
    return (
        f"\n# {recipe.name}\n\n"
        f"Trained on {len(pictures.train):,} pictures of {pictures.name} by `madzoo finetune`, from {start}: "
        f"{recipe.epochs} epochs, seed {recipe.seed}. On {len(pictures.validation):,} pictures held out for "
        f"validation, by which the weights of step {result.chosen_step} were chosen: top-1 {top1}.\n\n"
        'Load it from where it lies: `madzoo.create_model("local-dir:FOLDER")`.\n'
    )
