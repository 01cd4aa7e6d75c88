"""The trainings of the study of quantized recurrences: pictures read pixel by pixel, on the library's own loop."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from madzoo.data.catalog import find_dataset
from madzoo.data.images import Augmentation, ImageArrays, ImageSteps, image_batches
from madzoo.data.load import load_image_split
from madzoo.errors import DataError
from madzoo.training.loop import train
from madzoo.training.losses import cross_entropy
from madzoo.training.recipe import Recipe
from madzoo.training.run_state import RunFiles
from madzoo.training.validation import score_classifier
from madzoo.workflows.study_sequence_networks import NETWORKS

__all__ = ["Pictures", "SequenceRecipe", "draw", "load_pictures", "pixel_batches", "train_network"]

Batch = tuple[Tensor, Tensor]
SAVE_EVERY = 100
Pictures = dict[str, ImageArrays]


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceRecipe:
    """States everything that is chosen about data and training.

    Attributes:
        dataset: of the catalog.
        train, validation, test: pictures of each part, drawn once with seed 0; the parts share no picture.
        epochs: of each network's schedule.
        last_step: of a network whose training ends before its schedule does; a multiple of :data:`SAVE_EVERY`, and
            the end of an epoch.
        batch_size, lr, warmup_steps, clip_norm: AdamW without weight decay, a cosine to zero.
        seed: of initial weights and order.
    """

    dataset: str = "fashion_mnist"
    train: int = 10_000
    validation: int = 1_000
    test: int = 2_000
    epochs: Mapping[str, int] = field(default_factory=lambda: {"s4d": 3, "mamba": 1})
    last_step: Mapping[str, int] = field(default_factory=lambda: {"s4d": 400})
    batch_size: int = 50
    lr: float = 4e-3
    warmup_steps: int = 40
    clip_norm: float = 1.0
    seed: int = 0


def load_pictures(recipe: SequenceRecipe, *, folder: Path | str | None = None) -> Pictures:
    """Reads the three parts.

    Raises:
        DataError: when the data set is missing, or a part has too few pictures.
    """
    spec, parts = find_dataset(recipe.dataset), ("train", "validation", "test")
    return {part: draw(load_image_split(spec, part, folder=folder), getattr(recipe, part)) for part in parts}


def draw(data: ImageArrays, count: int) -> ImageArrays:
    """Draws pictures with seed 0.

    Raises:
        DataError: when there are too few.
    """
    if count > len(data):
        raise DataError("the part has too few pictures.", asked=count, looked=len(data))
    return data.take(torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count].numpy())


def pixel_batches(data: ImageArrays, recipe: SequenceRecipe, *, batch_size: int) -> list[Batch]:
    """Returns every picture once as normalised pixels in raster order, with its label.

    Shapes: each ([B, H W], [B]).
    """
    spec = find_dataset(recipe.dataset)
    batches = image_batches(data, mean=spec.mean, std=spec.std, batch_size=batch_size)
    return [(images.flatten(1), labels) for images, labels in batches]


def train_network(name: str, pictures: Pictures, recipe: SequenceRecipe, run_dir: Path) -> nn.Module:
    """Trains a network, or goes on with an interrupted run in the same folder.

    Raises:
        CheckpointError: when the folder holds a run of another recipe.

    Cost: 10 to 20 minutes of one core by the recipe's defaults.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = NETWORKS[name]()
        spec = find_dataset(recipe.dataset)
        order = {"batch_size": recipe.batch_size, "seed": recipe.seed}
        source = ImageSteps(pictures["train"], Augmentation(), mean=spec.mean, std=spec.std, **order)
        held_out = pixel_batches(pictures["validation"], recipe, batch_size=250)
        with contextlib.suppress(_Enough):
            train(
                model,
                source,
                cross_entropy,
                lambda network: score_classifier(network, held_out),
                _loop_recipe(name, recipe),
                run_dir,
                on_step=partial(_stop_after, recipe.last_step.get(name)),
            )
    state = RunFiles(run_dir).load()
    assert state is not None
    model.load_state_dict(state["best"])
    return model.eval()


class _Enough(Exception):  # noqa: N818
    """Ends a training."""


def _stop_after(last: int | None, step: int, loss: float) -> None:
    # One step too far: what was saved at the last one stays what it is.
    if last is not None and step > last:
        raise _Enough


def _loop_recipe(name: str, recipe: SequenceRecipe) -> Recipe:
    return Recipe(
        name=f"pixel_{name}.{recipe.dataset}",
        dataset=recipe.dataset,
        epochs=recipe.epochs[name],
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        warmup_steps=recipe.warmup_steps,
        clip_norm=recipe.clip_norm,
        loss="cross_entropy",
        log_every=20,
        save_every=SAVE_EVERY,
        seed=recipe.seed,
    )
