"""How a fine-tuning ended, and the checkpoint folder that it leaves."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madzoo.checkpoint.card import CARD_FILE, write_card
from madzoo.checkpoint.folder import write_folder
from madzoo.factory import model_info
from madzoo.registry import PretrainedCfg
from madzoo.training.loop import TrainingResult

__all__ = ["FinetuneResult", "as_name", "as_tag", "model_args", "write_finetuned"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FinetuneResult:
    """Tells how a fine-tuning ended.

    Attributes:
        training: steps, and the validation of the chosen weights.
        folder: the checkpoint folder; None while unfinished.
        class_names: what an image model now tells apart; empty for a forecaster.
    """

    training: TrainingResult
    folder: Path | None
    class_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.training}\n{self.folder}" if self.folder else str(self.training)


def as_name(name: str) -> str:
    """Returns the name of a model for :func:`madzoo.create_model`, where it may also be a checkpoint folder."""
    return f"local-dir:{name}" if Path(name).is_dir() else name


def as_tag(name: str) -> str:
    """Returns a tag, or a part of a folder's name, made from the name of the data.

    Example:
        >>> as_tag("My Shops 2")
        'my-shops-2'
    """
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "finetuned"


def write_finetuned(
    folder: Path, model: Any, *, name: str, cfg: PretrainedCfg, example: Tensor, prose: str, **changed: Any
) -> None:
    """Writes a model as a checkpoint folder with golden tensors and a card; the model is left on the CPU.

    Args:
        folder: where to.
        model: a model of the zoo with its weights.
        name: ``arch.tag`` of the new weights.
        cfg: how the input is prepared, and the licence.
        example: the golden input.
        prose: of the card.
        changed: fields of the configuration that the model does not state itself.

    Raises:
        CheckpointError: when the folder cannot be written.
    """
    model.to("cpu").eval()
    with torch.inference_mode():
        golden = (example, model(example))
    write_folder(
        folder, architecture=name, model_args=model_args(model, changed), pretrained_cfg=cfg.to_dict(),
        state=model.state_dict(), golden=golden,
    )  # fmt: skip
    (folder / CARD_FILE).write_text(prose, encoding="utf-8")
    write_card(folder)


def model_args(model: Any, changed: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration fields in which a model differs from its architecture's own, plain JSON.

    Args:
        model: a model of the zoo.
        changed: fields that the model does not state itself.
    """
    own = dataclasses.asdict(model_info(model.madzoo_name.partition(".")[0]).config)
    present = dataclasses.asdict(model.config) | changed
    found = {name: value for name, value in present.items() if value != own[name]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
