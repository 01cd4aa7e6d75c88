"""How a fine-tuning ended, and the checkpoint folder that it leaves."""

import dataclasses
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madzoo.checkpoint.card import CARD_FILE, write_card
from madzoo.checkpoint.folder import read_folder, write_folder
from madzoo.checkpoint.resolve import parse_name
from madzoo.factory import model_info
from madzoo.registry import PretrainedCfg
from madzoo.training.loop import TrainingResult
from madzoo.workflows.folder_place import check_place, keep_reports, publish, staged

__all__ = ["FinetuneResult", "as_name", "as_tag", "model_args", "source_folder", "source_name", "write_finetuned"]

logger = logging.getLogger(__name__)


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


def source_folder(model_or_name: Any) -> Path | None:
    """Returns the checkpoint folder that a name says; None of a module, or where it says none."""
    return parse_name(as_name(str(model_or_name))).path if isinstance(model_or_name, (str, Path)) else None


def source_name(model_or_name: Any) -> str | None:
    """Returns ``arch.tag`` of a model, or what its name or folder says; None where only a download tells."""
    if not isinstance(model_or_name, (str, Path)):
        return model_or_name.madzoo_name
    place = parse_name(as_name(str(model_or_name)))
    if place.path is not None:
        return read_folder(place.path).config.architecture
    return model_info(str(place.name)).full_name if place.kind == "registry" else None


def as_tag(name: str) -> str:
    """Returns a tag, or a part of a folder's name, made from the name of the data.

    Example:
        >>> as_tag("My Shops 2")
        'my-shops-2'
    """
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "finetuned"


def write_finetuned(
    folder: Path, model: Any, *, name: str, source: Path | None, cfg: PretrainedCfg, example: Tensor, prose: str,
    **changed: Any,
) -> None:  # fmt: skip
    """Writes a model as a checkpoint folder with golden tensors and a card; the model is left on the CPU.

    Of older weights in that folder go the reports about them, with a warning; see
    :func:`madzoo.workflows.folder_place.check_place` for what a folder may hold.

    Args:
        folder: where to.
        model: a model of the zoo with its weights.
        name: ``arch.tag`` of the new weights.
        source: the folder of the weights it began with; None where they were in none.
        cfg: how the input is prepared, and the licence.
        example: the golden input.
        prose: of the card.
        changed: fields of the configuration that the model does not state itself.

    Raises:
        ConfigError: when the folder holds something else.
        CheckpointError: when the folder cannot be written.
    """
    check_place(folder, name=name, packed=False, source=source, source_name=model.madzoo_name)
    model.to("cpu").eval()
    with torch.inference_mode():
        golden = (example, model(example))
    with staged(folder) as stage:
        write_folder(
            stage, architecture=name, model_args=model_args(model, changed), pretrained_cfg=cfg.to_dict(),
            state=model.state_dict(), golden=golden,
        )  # fmt: skip
        keep_reports(folder, stage)
        (stage / CARD_FILE).write_text(prose, encoding="utf-8")
        write_card(stage)
        dropped = publish(stage, folder)
    if dropped:
        logger.warning("removed, for they were about the weights replaced: %s", ", ".join(dropped))


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
